// Command probe is the only program of the test image. Its commands run in
// order, separated by "--"; the first that fails ends it with status 1.
package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args[1:]
	if len(args) == 1 && args[0] == "shell" {
		shell()
		return
	}
	for len(args) > 0 {
		n := 0
		for n < len(args) && args[n] != "--" {
			n++
		}
		run(args[0], args[1:n])
		args = args[min(n+1, len(args)):]
	}
}

// shell runs the commands it reads, one a line.
func shell() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if len(words) > 0 {
			run(words[0], words[1:])
		}
	}
}

func run(command string, args []string) {
	switch command {
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "parts": // an unfinished line on each stream, then the rest
		fmt.Print("out-")
		time.Sleep(50 * time.Millisecond)
		fmt.Fprint(os.Stderr, "err-")
		time.Sleep(50 * time.Millisecond)
		fmt.Println("whole")
		time.Sleep(50 * time.Millisecond)
		fmt.Fprint(os.Stderr, "whole") // no newline at the end
	case "lines": // COUNT lines of 100 bytes
		n, err := strconv.Atoi(args[0])
		check(err)
		w := bufio.NewWriter(os.Stdout)
		for i := range n {
			fmt.Fprintf(w, "%099d\n", i)
		}
		check(w.Flush())
	case "write":
		check(os.WriteFile(args[0], []byte(strings.Join(args[1:], " ")), 0o644))
	case "cat":
		data, err := os.ReadFile(args[0])
		check(err)
		fmt.Println(string(data))
	case "list": // everything below a folder
		check(filepath.WalkDir(args[0], func(path string, _ fs.DirEntry, err error) error {
			if err != nil || path == args[0] {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(path, &st); err != nil {
				return err
			}
			attributes, err := syscall.Listxattr(path, nil)
			if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				st.Nlink, st.Size = 0, 0 // as the file system has it
			}
			fmt.Printf("%s mode=%o mtime=%d.%09d owner=%d:%d links=%d size=%d attributes=%d\n",
				path, st.Mode, st.Mtim.Sec, st.Mtim.Nsec, st.Uid, st.Gid, st.Nlink, st.Size, attributes)
			return err
		}))
	case "copy":
		data, err := os.ReadFile(args[0])
		check(err)
		check(os.WriteFile(args[1], data, 0o644))
	case "stamp": // different with every run
		check(os.WriteFile(args[0], []byte(time.Now().Format(time.RFC3339Nano)), 0o644))
	case "whoami":
		dir, err := os.Getwd()
		check(err)
		fmt.Printf("uid=%d cwd=%s GREETING=%s\n", os.Getuid(), dir, os.Getenv("GREETING"))
	case "interfaces":
		list, err := net.Interfaces()
		check(err)
		for _, i := range list {
			fmt.Printf("interface %s\n", i.Name)
		}
	case "dial":
		conn, err := net.DialTimeout("tcp", args[0], 3*time.Second)
		check(err)
		conn.Close()
	case "sleep":
		n, err := strconv.Atoi(args[0])
		check(err)
		time.Sleep(time.Duration(n) * time.Second)
	case "terminal":
		fi, err := os.Stdin.Stat()
		check(err)
		fmt.Printf("terminal %t\n", fi.Mode()&os.ModeCharDevice != 0)
	case "traps": // until SIGTERM, then exit 9
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		os.Exit(9)
	case "exit":
		n, err := strconv.Atoi(args[0])
		check(err)
		os.Exit(n)
	default:
		check(fmt.Errorf("unknown command %q", command))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
