// Slipway builds image-based container-host operating systems.
package main

import (
	"io"
	"log"
	"os"
	"runtime"

	"slipway/internal/cli"
)

func main() {
	// moby/go-archive locks main to its thread, as threads that it took apart must not
	// be the first one. Only the engine has such threads, and each switch from and to a
	// locked goroutine costs others time.
	if len(os.Args) < 3 || os.Args[1] != "engine" || os.Args[2] != "serve" {
		runtime.UnlockOSThread()
	}
	// BuildKit's HTTP/2 server writes to the standard logger when a connection breaks
	log.SetOutput(io.Discard)
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
