package tufrepo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/sign"
)

// A repository whose keys are all elsewhere is signed through the folder of a
// request, which is taken to one holder of a key after the other.
func TestRequest(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	r := open(t, filepath.Join(t.TempDir(), "repo"), c)
	if _, err := r.Request(); !errors.Is(err, ErrNoChange) {
		t.Errorf("nothing to sign: %v", err)
	}
	p := policies()
	for _, role := range roles {
		for i, k := range p.Role(role).Keys {
			p.Role(role).Keys[i] = public(k)
		}
	}
	change, err := r.Init(p)
	if err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if err := r.Commit(t.Context(), change); !errors.As(err, &missing) {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "request")
	request, err := r.Request()
	if err != nil {
		t.Fatal(err)
	}
	if err := request.Write(dir); err != nil {
		t.Fatal(err)
	}
	if len(request.Wanted) != 6 { // of three keys of the root, and one of each other role
		t.Fatalf("%+v", request.Wanted)
	}
	read := func() *sign.Request {
		t.Helper()
		request, err := sign.ReadRequest(dir)
		if err != nil {
			t.Fatal(err)
		}
		return request
	}
	var unsigned *sign.MissingError
	if err := r.ApplyRequest(t.Context(), read()); !errors.As(err, &unsigned) {
		t.Errorf("without signatures: %v", err)
	}
	give := func(keys ...*sign.Key) error {
		t.Helper()
		for _, k := range keys {
			if n, err := read().Sign(t.Context(), dir, k); n != 1 || err != nil {
				t.Fatalf("%d signatures: %v", n, err)
			}
		}
		return r.ApplyRequest(t.Context(), read())
	}
	if err := give(key(1), key(4)); !errors.As(err, &missing) || len(missing.Payloads) != 3 || missing.Payloads[0].Role != "root" || missing.Payloads[0].Missing != 1 {
		t.Fatalf("two of five: %v", err)
	}
	// what was taken before is taken again; the third key of the root is not needed
	if err := give(key(5), key(6), key(3)); err != nil {
		t.Fatal(err)
	}
	check(t, r, c)
	if err := r.ApplyRequest(t.Context(), read()); !errors.Is(err, ErrNoChange) {
		t.Errorf("applied again: %v", err)
	}

	// signatures for another change are refused
	change, err = r.Refresh(p, false)
	if err != nil || !errors.As(r.Commit(t.Context(), change), &missing) {
		t.Fatal(err)
	}
	if err := r.ApplyRequest(t.Context(), read()); err == nil || !strings.Contains(err.Error(), "it is not for the change that waits now") {
		t.Errorf("another change: %v", err)
	}
	if err := r.ApplyRequest(t.Context(), &sign.Request{Kind: sign.RequestImage}); err == nil || !strings.Contains(err.Error(), "want a repository") {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(r.dir, ".slipway", "staged")); err != nil || len(left) != 3 {
		t.Errorf("staged: %v (%v)", left, err)
	}
}
