package image

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/format"
	"slipway/internal/image/verity"
	"slipway/internal/sign"
)

// UKIEnding is the ending of the file with the unified kernel image, which lies
// beside a disk image.
const UKIEnding = "-uki.efi"

// rootHashItem is what a request calls the root hash.
const rootHashItem = "root hash"

// NewRequest gives what is to be signed of the raw disk image at path, whose first
// slot has the root hash: its EFI programs with the key of the one certificate, the
// root hash with that of the other, which may be the same.
func NewRequest(path string, hash verity.RootHash, secureBoot, verityCert *x509.Certificate) (*sign.Request, error) {
	if err := errors.Join(authenticode.CheckCertificate(secureBoot), verity.CheckCertificate(verityCert)); err != nil {
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
	r := &sign.Request{Kind: sign.RequestImage, Subject: absolute}
	add := func(what string, scheme sign.Scheme, certificate *x509.Certificate, message []byte) error {
		key, err := sign.MarshalPublic(certificate.PublicKey)
		r.Wanted = append(r.Wanted, sign.Wanted{
			What: what, Scheme: scheme, Key: string(key), Certificate: string(sign.MarshalCertificate(certificate)), Bytes: message,
		})
		return err
	}
	for _, p := range programs {
		if signers, err := authenticode.Signers(p.Data); err != nil {
			return nil, fmt.Errorf("/%s: %w", p.Path, err)
		} else if len(signers) > 0 {
			return nil, fmt.Errorf("%s: /%s is signed already, by %s: give an image that was built without keys", path, p.Path, signers[0].Subject)
		}
		message, err := authenticode.ToBeSigned(p.Data)
		if err == nil {
			err = add(p.Path, sign.RSAPKCS1SHA256, secureBoot, message)
		}
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", p.Path, err)
		}
	}
	return r, add(rootHashItem, verity.SignedScheme, verityCert, hash.SignedText())
}

// ApplyRequest writes to out the disk image of a request with the signatures that the
// request has; it is the disk that Assemble makes with the same key. Beside it come
// the signed kernel, the root hash and its signature: the files that end in
// -uki.efi, -root.hash and -root.hash.p7s, which it gives. image is the unsigned
// image; "" is where it was. Signatures that are missing make a
// *sign.MissingError.
func ApplyRequest(ctx context.Context, r *sign.Request, image, out string) (beside []string, err error) {
	if r.Kind != sign.RequestImage {
		return nil, fmt.Errorf("the request is for a %s: want an image", r.Kind)
	}
	if err := r.Complete(); err != nil {
		return nil, err
	}
	if image == "" {
		image = r.Subject
	}
	wanted, certificates := map[string]sign.Wanted{}, map[string]*x509.Certificate{}
	for _, w := range r.Wanted {
		wanted[w.What] = w
		if certificates[w.What], err = sign.ParseCertificate([]byte(w.Certificate)); err != nil {
			return nil, fmt.Errorf("certificate for %s: %w", w.What, err)
		}
	}
	w, ok := wanted[rootHashItem]
	if !ok {
		return nil, errors.New("the request has no root hash: prepare the image anew")
	}
	// the kernel's command line holds it, so it is that of the image if the kernel is
	hash, err := verity.ParseRootHash(string(w.Bytes))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.Message, err)
	}
	signature, err := hash.Attach(certificates[rootHashItem], w.Value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.Signature, err)
	}
	var kernel []byte
	err = Resign(ctx, image, out, func(_ context.Context, path string, program []byte) ([]byte, error) {
		w, ok := wanted[path]
		if !ok {
			return nil, errors.New("the request does not know it: prepare the image anew")
		}
		message, err := authenticode.ToBeSigned(program)
		if err != nil {
			return nil, err
		}
		if string(message) != string(w.Bytes) {
			return nil, errors.New("its digest is not that of the request: the image is another one; prepare it anew")
		}
		signed, err := authenticode.Attach(program, certificates[path], w.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Signature, err)
		}
		if strings.HasPrefix(path, dirLinux) {
			kernel = signed
		}
		return signed, nil
	})
	if err != nil {
		return nil, err
	}
	stem := strings.TrimSuffix(out, format.Raw.Extension())
	for _, f := range []struct {
		ending string
		data   []byte
	}{{UKIEnding, kernel}, {verity.HashEnding, hash.SignedText()}, {verity.SignatureEnding, signature}} {
		if f.data == nil { // a disk without a kernel
			continue
		}
		err := create(stem+f.ending, int64(len(f.data)), func(to *os.File) error {
			_, err := to.Write(f.data)
			return err
		})
		if err != nil {
			return beside, err
		}
		beside = append(beside, stem+f.ending)
	}
	return beside, nil
}
