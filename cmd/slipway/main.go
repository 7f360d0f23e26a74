// Slipway builds image-based container-host operating systems.
package main

import (
	"os"

	"slipway/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
