// Program is linked with a module, for the test of what RPMs ship.
package main

import (
	"os"

	"github.com/package-url/packageurl-go"
)

func main() {
	if _, err := packageurl.FromString(os.Args[0]); err != nil {
		os.Exit(1)
	}
}
