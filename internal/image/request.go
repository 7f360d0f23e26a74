package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"slipway/internal/image/authenticode"
	"slipway/internal/sign"
)

// Files in the folder of a request.
const (
	requestFile        = "request.json"
	requestCertificate = "certificate.crt"
	requestSchema      = 1
)

// Request is a disk image that waits for signatures that are made elsewhere: a
// folder with what is to be signed, into which the signatures are put.
type Request struct {
	Schema      int                `json:"schema"`
	Image       string             `json:"image"` // absolute path of the unsigned disk image
	Certificate string             `json:"certificate"`
	Algorithm   string             `json:"algorithm"` // a sign.Scheme
	Programs    []RequestedProgram `json:"programs"`
}

// RequestedProgram is an EFI program of a Request.
type RequestedProgram struct {
	Path      string `json:"path"`      // on the EFI system partition
	Digest    string `json:"digest"`    // Authenticode hash, SHA-256, hexadecimal
	Message   string `json:"message"`   // file with the bytes to be signed
	Signature string `json:"signature"` // file for the raw signature
}

// MissingSignaturesError says which signatures a request still waits for.
type MissingSignaturesError struct{ Files []string }

func (e *MissingSignaturesError) Error() string {
	return "signatures are missing: " + strings.Join(e.Files, ", ")
}

// NewRequest writes to a folder, which must be new or empty, what is to be signed
// of the raw disk image at path.
func NewRequest(dir, path string, certificate *x509.Certificate) (*Request, error) {
	if err := authenticode.CheckCertificate(certificate); err != nil {
		return nil, err
	}
	programs, err := Programs(path)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	r := &Request{Schema: requestSchema, Image: absolute, Certificate: requestCertificate, Algorithm: string(sign.RSAPKCS1SHA256)}
	files := map[string][]byte{requestCertificate: sign.MarshalCertificate(certificate)}
	for _, p := range programs {
		if signers, err := authenticode.Signers(p.Data); err != nil {
			return nil, fmt.Errorf("/%s: %w", p.Path, err)
		} else if len(signers) > 0 {
			return nil, fmt.Errorf("%s: /%s is signed already, by %s: give an image that was built without keys", path, p.Path, signers[0].Subject)
		}
		digest, err := authenticode.Digest(p.Data)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", p.Path, err)
		}
		message, err := authenticode.ToBeSigned(p.Data)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", p.Path, err)
		}
		name := strings.ReplaceAll(p.Path, "/", "-")
		files[name+".tbs"] = message
		r.Programs = append(r.Programs, RequestedProgram{Path: p.Path, Digest: hex.EncodeToString(digest[:]), Message: name + ".tbs", Signature: name + ".sig"})
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if there, err := os.ReadDir(dir); err != nil {
		return nil, err
	} else if len(there) > 0 {
		return nil, fmt.Errorf("%s is not empty: it has %s: name a new folder", dir, there[0].Name())
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return nil, err
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	// last: with it, the request is whole
	return r, os.WriteFile(filepath.Join(dir, requestFile), append(text, '\n'), 0o644)
}

// ReadRequest reads the folder of a request.
func ReadRequest(dir string) (*Request, error) {
	path := filepath.Join(dir, requestFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: slipway sign prepare makes it", err)
	}
	r := &Request{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Schema != requestSchema {
		return nil, fmt.Errorf("%s: schema %d: this program knows %d", path, r.Schema, requestSchema)
	}
	if r.Algorithm != string(sign.RSAPKCS1SHA256) {
		return nil, fmt.Errorf("%s: algorithm %q: want %q", path, r.Algorithm, sign.RSAPKCS1SHA256)
	}
	for _, name := range append([]string{r.Certificate}, r.files()...) {
		if !filepath.IsLocal(name) || strings.ContainsRune(name, filepath.Separator) {
			return nil, fmt.Errorf("%s: %q is not the name of a file in the folder", path, name)
		}
	}
	return r, nil
}

func (r *Request) files() (names []string) {
	for _, p := range r.Programs {
		names = append(names, p.Message, p.Signature)
	}
	return names
}

// Apply writes to out the request's disk image with the signatures that are in the
// folder; it is the disk that Assemble makes with the same key. image is the
// unsigned image; "" is where it was. Signatures that are missing make a
// *MissingSignaturesError; a wrong one wraps sign.ErrSignature.
func (r *Request) Apply(ctx context.Context, dir, image, out string) error {
	certificate, err := sign.LoadCertificate(filepath.Join(dir, r.Certificate))
	if err != nil {
		return err
	}
	if image == "" {
		image = r.Image
	}
	programs, signatures := map[string]RequestedProgram{}, map[string][]byte{}
	missing := &MissingSignaturesError{}
	for _, p := range r.Programs {
		signature, err := os.ReadFile(filepath.Join(dir, p.Signature))
		if errors.Is(err, fs.ErrNotExist) {
			missing.Files = append(missing.Files, p.Signature)
			continue
		}
		if err != nil {
			return err
		}
		programs[p.Path], signatures[p.Path] = p, signature
	}
	if len(missing.Files) > 0 {
		return missing
	}
	return Resign(ctx, image, out, func(_ context.Context, path string, program []byte) ([]byte, error) {
		p, ok := programs[path]
		if !ok {
			return nil, errors.New("the request does not know it: prepare the image anew")
		}
		digest, err := authenticode.Digest(program)
		if err != nil {
			return nil, err
		}
		if hex.EncodeToString(digest[:]) != p.Digest {
			return nil, fmt.Errorf("its digest is %x, the request is for %s: the image is another one; prepare it anew", digest, p.Digest)
		}
		signed, err := authenticode.Attach(program, certificate, signatures[path])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Signature, err)
		}
		return signed, nil
	})
}
