package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(b)
	}
}

func TestRun(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/data/a.log", "a\n")
	write(t, d+"/data/b.log", "b\n")
	write(t, d+"/data/c.txt", "c\n")
	write(t, d+"/defaults/host/name", `"one"`)
	write(t, d+"/defaults/net/mtu", `1500`)
	write(t, d+"/live/host/name", `"two"`)
	write(t, d+"/live/host/name.setting-generator", `"gen"`)
	write(t, d+"/live/keys/a%2Eb", `true`)
	write(t, d+"/conf/10-first.conf", `
# comment
exec out/echo.txt echo "two words" three   # trailing
exec out/fails sh -c "echo partly; exit 3"
exec out/slow sleep 20
file out/file.txt `+d+`/data/c.txt
file out/none.txt `+d+`/data/none
glob `+d+`/data/*.log
`)
	write(t, d+"/conf/20-settings.conf", "settings all.json\nsettings host.json settings.host keys.a\n")
	write(t, d+"/conf/ignored.txt", "nonsense\n")
	write(t, d+"/conf/30-hidden.conf", "nonsense\n")
	write(t, d+"/later/30-hidden.conf", "file data.c "+d+"/data/c.txt\n")

	err := run([]string{"-conf", d + "/conf:" + d + "/missing:" + d + "/later", "-settings", d + "/defaults:" + d + "/live",
		"-output", d + "/out/x.tar.gz", "-timeout", "300ms"})
	if err != nil {
		t.Fatal(err)
	}
	got := unpack(t, d+"/out/x.tar.gz")
	problems := got["logs/errors.txt"]
	delete(got, "logs/errors.txt")
	rel := strings.TrimPrefix(d, "/")
	want := map[string]string{
		"logs/out/echo.txt":           "two words three\n",
		"logs/out/fails":              "partly\n",
		"logs/out/slow":               "",
		"logs/out/file.txt":           "c\n",
		"logs/" + rel + "/data/a.log": "a\n",
		"logs/" + rel + "/data/b.log": "b\n",
		"logs/all.json":               "{\n  \"host\": {\n    \"name\": \"two\"\n  },\n  \"keys\": {\n    \"a.b\": true\n  },\n  \"net\": {\n    \"mtu\": 1500\n  }\n}\n",
		"logs/host.json":              "{\n  \"host\": {\n    \"name\": \"two\"\n  }\n}\n",
		"logs/data.c":                 "c\n",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("archive holds %q, want %q", got, want)
	}
	for _, want := range []string{"10-first.conf:4: exec out/fails: exit status 3", "exec out/slow: took longer than 300ms", "file out/none.txt: open"} {
		if !strings.Contains(problems, want) {
			t.Errorf("errors.txt lacks %q:\n%s", want, problems)
		}
	}
	left, err := os.ReadDir(d + "/out")
	if err != nil || len(left) != 1 {
		t.Errorf("beside the archive stand %v (%v)", left, err)
	}
}

func TestBadConf(t *testing.T) {
	for name, c := range map[string]struct{ conf, want string }{
		"unknown request":  {"copy a b", "x.conf:1: unknown request \"copy\": one of exec, file, glob, settings"},
		"too few words":    {"\nexec out", "x.conf:2: exec takes 2 to"},
		"too many words":   {"file a /b /c", "file takes 2 to 2 words, not 3"},
		"escaping output":  {"file ../a /b", "output \"../a\" leaves the archive"},
		"relative pattern": {"glob a/*", "\"a/*\" is no absolute file pattern"},
		"bad pattern":      {"glob /[", "\"/[\" is no absolute file pattern"},
		"open quote":       {`exec a "b`, "quote without an end"},
		"same output":      {"file a /b\nfile a /c", "x.conf:2: output \"a\" is used by"},
	} {
		t.Run(name, func(t *testing.T) {
			d := t.TempDir()
			write(t, d+"/x.conf", c.conf)
			err := run([]string{"-conf", d, "-output", d + "/out.tar.gz"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if _, err := os.Stat(d + "/out.tar.gz"); err == nil {
				t.Error("an archive was written")
			}
		})
	}
	if err := run([]string{"-conf", t.TempDir()}); err == nil || !strings.Contains(err.Error(), "nothing to collect") {
		t.Fatalf("empty folder: %v", err)
	}
}
