package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// requestFile is the name of the file that makes a folder a request.
const (
	requestFile   = "request.json"
	requestSchema = 2
)

// Kinds of requests.
const (
	RequestImage      = "image"
	RequestRepository = "repository"
)

// Request is what waits for signatures that are made elsewhere: a folder with
// request.json, a file with each message, and beside it the signature when it has
// been made.
type Request struct {
	Schema  int      `json:"schema"`
	Kind    string   `json:"kind"`    // RequestImage or RequestRepository
	Subject string   `json:"subject"` // absolute path of the image or repository
	Wanted  []Wanted `json:"signatures"`
}

// Wanted is one signature of a request.
type Wanted struct {
	// What is to be signed: the path of an EFI program on its partition,
	// "root hash", or role and version of metadata.
	What   string `json:"what"`
	Scheme Scheme `json:"scheme"`
	Key    string `json:"key"` // public, in PEM
	// Certificate of the key, in PEM; "" where none is needed.
	Certificate string `json:"certificate,omitempty"`
	Message     string `json:"message"`   // name of the file with the bytes to be signed
	Signature   string `json:"signature"` // name of the file for the raw signature

	Bytes []byte `json:"-"` // what is in the file Message
	Value []byte `json:"-"` // what is in the file Signature, verified; nil where it is missing
}

// MissingError says which signatures a request still waits for.
type MissingError struct{ Files []string }

func (e *MissingError) Error() string {
	return "signatures are missing: " + strings.Join(e.Files, ", ")
}

// Write makes the folder of a request, which must be new or empty. It names the
// files: each begins with a letter and is unique.
func (r *Request) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if there, err := os.ReadDir(dir); err != nil {
		return err
	} else if len(there) > 0 {
		return fmt.Errorf("%s is not empty: it has %s: name a new folder", dir, there[0].Name())
	}
	r.Schema = requestSchema
	seen := map[string]bool{}
	for i := range r.Wanted {
		w := &r.Wanted[i]
		base := strings.NewReplacer("/", "-", " ", "-").Replace(w.What)
		name := base
		for n := 2; seen[name]; n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		seen[name] = true
		w.Message, w.Signature = name+".tbs", name+".sig"
		if err := os.WriteFile(filepath.Join(dir, w.Message), w.Bytes, 0o644); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	// last: with it, the request is whole
	return os.WriteFile(filepath.Join(dir, requestFile), append(text, '\n'), 0o644)
}

// ReadRequest reads the folder of a request, and verifies the signatures that are
// there. The error of a wrong one wraps ErrSignature.
func ReadRequest(dir string) (*Request, error) {
	path := filepath.Join(dir, requestFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: slipway sign prepare makes it", err)
	}
	bad := func(format string, a ...any) (*Request, error) {
		return nil, fmt.Errorf("%s: %w", path, fmt.Errorf(format, a...))
	}
	r := &Request{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return bad("%w", err)
	}
	if r.Schema != requestSchema {
		return bad("schema %d: this program knows %d", r.Schema, requestSchema)
	}
	if r.Kind != RequestImage && r.Kind != RequestRepository {
		return bad("kind %q: want %q or %q", r.Kind, RequestImage, RequestRepository)
	}
	for i := range r.Wanted {
		w := &r.Wanted[i]
		for _, name := range []string{w.Message, w.Signature} {
			if !filepath.IsLocal(name) || strings.ContainsRune(name, filepath.Separator) {
				return bad("%q is not the name of a file in the folder", name)
			}
		}
		if w.Bytes, err = os.ReadFile(filepath.Join(dir, w.Message)); err != nil {
			return nil, err
		}
		key, err := Parse([]byte(w.Key))
		if err == nil {
			err = w.Scheme.Fits(key.Public)
		}
		if err != nil {
			return bad("%s: %w", w.What, err)
		}
		file := filepath.Join(dir, w.Signature)
		value, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := Verify(key.Public, w.Scheme, w.Bytes, value); err != nil {
			return nil, fmt.Errorf("%s: %w: it must be made of %s by %s with the key of the request", file, err, w.Message, w.Scheme)
		}
		w.Value = value
	}
	return r, nil
}

// Complete gives a *MissingError where signatures are missing.
func (r *Request) Complete() error {
	missing := &MissingError{}
	for _, w := range r.Wanted {
		if w.Value == nil {
			missing.Files = append(missing.Files, w.Signature)
		}
	}
	if len(missing.Files) > 0 {
		return missing
	}
	return nil
}

// Sign adds to the request in a folder the missing signatures that a key can make,
// and gives how many these are. It is an error where no signature is wanted of
// the key.
func (r *Request) Sign(ctx context.Context, dir string, key *Key) (n int, err error) {
	if key.Signer == nil {
		return 0, fmt.Errorf("%s is a public key: name the private one", key.Ref)
	}
	public, err := MarshalPublic(key.Public)
	if err != nil {
		return 0, err
	}
	wanted := false
	for i := range r.Wanted {
		w := &r.Wanted[i]
		if w.Key != string(public) {
			continue
		}
		wanted = true
		if w.Value != nil {
			continue
		}
		value, err := Message(ctx, key.Signer, w.Scheme, w.Bytes)
		if err != nil {
			return n, fmt.Errorf("key %s: %w", key.Ref, err)
		}
		if err := os.WriteFile(filepath.Join(dir, w.Signature), value, 0o644); err != nil {
			return n, err
		}
		w.Value = value
		n++
	}
	if !wanted {
		return 0, fmt.Errorf("no signature is wanted of the key %s: see %s", key.Ref, filepath.Join(dir, requestFile))
	}
	return n, nil
}
