// Slipway builds image-based container-host operating systems.
package main

import (
	"io"
	"log"
	"os"

	"slipway/internal/cli"
)

func main() {
	// BuildKit's HTTP/2 server writes to the standard logger when a connection breaks
	log.SetOutput(io.Discard)
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
