package sign

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &Request{Kind: RequestRepository, Subject: "/repo"}
	keys := map[string]*Key{}
	for kind, private := range generate(t) {
		key, err := Parse(forms(private)["PKCS #8"])
		if err != nil {
			t.Fatal(err)
		}
		keys[kind] = key
	}
	text := map[string]string{}
	for kind, key := range keys {
		public, err := MarshalPublic(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		text[kind] = string(public)
	}
	r.Wanted = []Wanted{
		{What: "root 1 a", Scheme: Ed25519, Key: text["ed25519"], Bytes: []byte("root")},
		{What: "root-1/a", Scheme: ECDSAP256, Key: text["ecdsa"], Bytes: []byte("root")}, // the same name of files
		{What: "targets 1", Scheme: RSAPSSSHA256, Key: text["rsa"], Bytes: []byte("targets")},
		{What: "timestamp 1", Scheme: RSAPSSSHA256, Key: text["rsa"], Bytes: []byte("timestamp")},
	}
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Write(dir); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a second request in the folder: %v", err)
	}
	var missing *MissingError
	if err := r.Complete(); !errors.As(err, &missing) || err.Error() != "signatures are missing: root-1-a.sig, root-1-a-2.sig, targets-1.sig, timestamp-1.sig" {
		t.Error(err)
	}
	for kind, want := range map[string]int{"ed25519": 1, "ecdsa": 1, "rsa": 2} {
		read, err := ReadRequest(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{want, 0} { // the second time there is nothing to do
			if n, err := read.Sign(t.Context(), dir, keys[kind]); n != want || err != nil {
				t.Errorf("%s: %d signatures, want %d (%v)", kind, n, want, err)
			}
		}
	}
	read, err := ReadRequest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := read.Complete(); err != nil {
		t.Error(err)
	}
	for i := range read.Wanted {
		read.Wanted[i].Value = nil
	}
	if d := cmp.Diff(r, read); d != "" {
		t.Error(d)
	}
	if _, err := read.Sign(t.Context(), dir, &Key{Ref: "k.pub", Public: keys["rsa"].Public}); err == nil || !strings.Contains(err.Error(), "k.pub is a public key") {
		t.Error(err)
	}
	wrong := filepath.Join(dir, "targets-1.sig")
	if err := os.WriteFile(wrong, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRequest(dir); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), wrong) {
		t.Errorf("a wrong signature: %v", err)
	}
}

func TestRequestErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"missing": {"", "slipway sign prepare makes it"},
		"JSON":    {"{", "unexpected EOF"},
		"unknown": {`{"schema": 2, "imgae": ""}`, `unknown field "imgae"`},
		"schema":  {`{"schema": 1}`, "schema 1: this program knows 2"},
		"kind":    {`{"schema": 2, "kind": "disk"}`, `kind "disk": want "image" or "repository"`},
		"outside": {`{"schema": 2, "kind": "image", "signatures": [{"message": "../c", "signature": "s"}]}`, `"../c" is not the name of a file`},
		"no name": {`{"schema": 2, "kind": "image", "signatures": [{"message": "m"}]}`, `"" is not the name of a file`},
		"no file": {`{"schema": 2, "kind": "image", "signatures": [{"message": "m", "signature": "s"}]}`, "no such file"},
		"key":     {`{"schema": 2, "kind": "image", "signatures": [{"what": "w", "message": "request.json", "signature": "s"}]}`, "w: no PEM block with a key"},
	} {
		dir := t.TempDir()
		if c.text != "" {
			if err := os.WriteFile(filepath.Join(dir, requestFile), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadRequest(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}
