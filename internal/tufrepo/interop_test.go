package tufrepo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/sign"
)

func pemKey(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func loaded(t *testing.T, key crypto.Signer) *sign.Key {
	t.Helper()
	k, err := sign.Parse(pemKey(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// mixed are policies with keys of all kinds.
func mixed(t *testing.T) *Policies {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, pss := loaded(t, p256), loaded(t, rsaKey)
	return &Policies{
		Root:      Policy{Threshold: 3, ExpiresDays: 365, Keys: []*sign.Key{key(1), ec, pss}},
		Targets:   Policy{Threshold: 1, ExpiresDays: 365, Keys: []*sign.Key{ec}},
		Snapshot:  Policy{Threshold: 1, ExpiresDays: 365, Keys: []*sign.Key{pss}},
		Timestamp: Policy{Threshold: 1, ExpiresDays: 365, Keys: []*sign.Key{key(6)}},
	}
}

func TestKeyKinds(t *testing.T) {
	t.Parallel()
	clk := &clock{start}
	r, p := open(t, filepath.Join(t.TempDir(), "repo"), clk), mixed(t)
	c, err := r.Init(p)
	commit(t, r, p, c, err)
	add(t, r, p, release(t, "1.0.0"))
	newClient(t, r, start).manifest(t)
	check(t, r, clk)
}

// tuf-js is an implementation of TUF that shares no code with go-tuf. Node finds
// it through NODE_PATH; make test installs it.
func TestTUFJS(t *testing.T) {
	t.Parallel()
	t.Logf("NODE_PATH=%s", os.Getenv("NODE_PATH")) // go test does not know that a result rests on it otherwise
	if out, err := exec.CommandContext(t.Context(), "node", "-e", "require('tuf-js')").CombinedOutput(); err != nil {
		why, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if os.Getenv("CI") == "true" {
			t.Fatalf("node does not find tuf-js: %v %s: run make test", err, why)
		}
		t.Skipf("node does not find tuf-js: %v %s", err, why)
	}
	clk := &clock{} // that client has the clock of the machine
	clk.Time = now()
	r, p := open(t, filepath.Join(t.TempDir(), "repo"), clk), mixed(t)
	change, err := r.Init(p)
	commit(t, r, p, change, err)
	c := newClient(t, r, clk.Time)
	cache := t.TempDir()
	run := func(want string) {
		t.Helper()
		args := []string{filepath.Join("testdata", "client.cjs"), c.url, r.path("1.root.json"), cache}
		out, err := exec.CommandContext(t.Context(), "node", args...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("tuf-js: %v\n%s\nwant %s", err, got, want)
		}
	}
	run("root 1, timestamp 1, no releases")
	add(t, r, p, release(t, "1.0.0"))
	add(t, r, p, secondRelease(t))
	run("root 1, timestamp 3, releases 1.0.0 1.1.0, 10 targets")
	next := mixed(t)
	next.Root.Keys = append(next.Root.Keys, key(1))[1:]
	change, err = r.Rotate(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), change, append(p.AllKeys(), next.AllKeys()...)...); err != nil {
		t.Fatal(err)
	}
	run("root 2, timestamp 3, releases 1.0.0 1.1.0, 10 targets")
	change, err = r.Refresh(next, true)
	commit(t, r, next, change, err)
	run("root 2, timestamp 4, releases 1.0.0 1.1.0, 10 targets")

	name := targetPath("dev-x86_64-1.1.0-uki.efi", r.current.manifest.Updates[1].Images.UKI.SHA256)
	data := tree(t, r.dir)[name]
	write(t, r.path(name), []byte("X"+data[1:]))
	run("refused: LengthOrHashMismatchError")
	write(t, r.path(name), []byte(data))
	write(t, r.path("timestamp.json"), []byte(strings.Replace(tree(t, r.dir)["timestamp.json"], `"version": 4`, `"version": 5`, 1)))
	run("refused: UnsignedMetadataError")
}
