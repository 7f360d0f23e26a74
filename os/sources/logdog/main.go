// Logdog collects what is needed to understand a machine's state into one
// tar.gz: the output of commands, files, globs of files, and settings. What to
// collect is named in the *.conf files of its configuration folders, to which
// each package, and each variant through its packages, adds its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "logdog:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	fs := flag.NewFlagSet("logdog", flag.ContinueOnError)
	conf := fs.String("conf", "/usr/share/logdog.d:/etc/logdog.d", "folders of *.conf files, separated by colons")
	settings := fs.String("settings", "/usr/share/dinghy/settings:/var/lib/dinghy/datastore/current/live/settings", "folders of settings, separated by colons; later ones win")
	output := fs.String("output", "/var/log/support/logdog.tar.gz", "archive to write")
	timeout := fs.Duration("timeout", 30*time.Second, "time that one command may take")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	requests, err := readConf(filepath.SplitList(*conf))
	if err != nil {
		return err
	}
	if len(requests) == 0 {
		return fmt.Errorf("nothing to collect: no request in any *.conf of %s", *conf)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := collector{settings: filepath.SplitList(*settings), timeout: *timeout}
	failed, err := c.archive(ctx, requests, *output)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d requests, %d failed\n", *output, len(requests), failed)
	return nil
}
