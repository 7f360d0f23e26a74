package inspect

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"slipway/internal/image/format"
	"slipway/internal/image/verity"
	"slipway/internal/sign"
)

// stem is the path of an image without the ending for its format.
func stem(image string) string {
	longest := ""
	for _, k := range format.Kinds() {
		if e := k.Extension(); strings.HasSuffix(image, e) && len(e) > len(longest) {
			longest = e
		}
	}
	return strings.TrimSuffix(image, longest)
}

// VerifyRootHash checks the files with the root hash and its signature beside the
// image at path, of which r is the report: that they are those of a slot, and where
// trusted is not nil, that the root hash is signed by one of these certificates. It
// gives who has signed, "" where there is no signature. The error is one of reading,
// not a finding.
func VerifyRootHash(image string, r *Report, trusted []*x509.Certificate) (signer string, findings []Finding, err error) {
	var hashes []verity.RootHash
	var names []string
	for _, s := range r.Slots {
		if !s.Empty {
			hashes, names = append(hashes, s.root), append(names, s.RootHash)
		}
	}
	text, err := os.ReadFile(stem(image) + verity.HashEnding)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	beside := err == nil
	if beside {
		found := false
		for _, name := range names {
			found = found || strings.TrimSuffix(string(text), "\n") == name
		}
		if !found {
			findings = append(findings, Finding{stem(image) + verity.HashEnding, "it is not the root hash of a slot: " + strings.Join(names, ", ")})
		}
	}
	path := stem(image) + verity.SignatureEnding
	der, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if beside && trusted != nil {
			findings = append(findings, Finding{path, "it is missing, so the root hash beside the image is not signed"})
		}
		return "", findings, nil
	}
	if err != nil {
		return "", nil, err
	}
	wrong := errors.New("no slot is filled")
	for _, h := range hashes {
		certificate, err := h.VerifySignature(der)
		if err == nil {
			signer = certificate.Subject.String()
			if trusted != nil && !slices.ContainsFunc(trusted, certificate.Equal) {
				findings = append(findings, Finding{path, fmt.Sprintf("signed by %s, who is not trusted", signer)})
			}
			return signer, findings, nil
		}
		wrong = err
		if errors.Is(err, sign.ErrSignature) {
			wrong = errors.New("it is not a signature of the root hash of a slot, or was changed")
		}
	}
	return "", append(findings, Finding{path, wrong.Error()}), nil
}
