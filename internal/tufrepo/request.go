package tufrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"slipway/internal/sign"
)

// ErrNoChange says that nothing waits for signatures.
var ErrNoChange = errors.New("no change waits for signatures")

// Request gives what is still to be signed of the staged change, for signing
// elsewhere: for each role a message for each of the keys of which a signature
// would count. Its Complete is not what counts: see ApplyRequest.
func (r *Repo) Request() (*sign.Request, error) {
	c, err := r.Staged()
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, fmt.Errorf("%s: %w", r.dir, ErrNoChange)
	}
	payloads, err := c.Payloads()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(r.dir)
	if err != nil {
		return nil, err
	}
	request := &sign.Request{Kind: sign.RequestRepository, Subject: dir}
	for _, p := range payloads {
		for _, k := range p.Keys {
			request.Wanted = append(request.Wanted, sign.Wanted{
				What: fmt.Sprintf("%s %d %s", p.Role, p.Version, k.ID[:16]), Scheme: k.Scheme, Key: k.Public, Bytes: p.Message,
			})
		}
	}
	return request, nil
}

// ApplyRequest takes the signatures of a request into the staged change, and
// publishes it when there are enough of each role; otherwise it stays staged, and
// the error is a *MissingError. A request without any signature is a
// *sign.MissingError.
func (r *Repo) ApplyRequest(ctx context.Context, request *sign.Request) error {
	if request.Kind != sign.RequestRepository {
		return fmt.Errorf("the request is for an %s: want a repository", request.Kind)
	}
	c, err := r.Staged()
	if err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("%s: %w", r.dir, ErrNoChange)
	}
	some := false
	for _, w := range request.Wanted {
		if w.Value == nil {
			continue
		}
		some = true
		if err := c.apply(w); err != nil {
			return fmt.Errorf("%s: %w", w.Signature, err)
		}
	}
	if !some {
		return request.Complete()
	}
	return r.finish(ctx, c)
}

// apply takes one signature of a request.
func (c *Change) apply(w sign.Wanted) error {
	key, err := sign.Parse([]byte(w.Key))
	if err != nil {
		return err
	}
	want, err := sign.Fingerprint(key.Public)
	if err != nil {
		return err
	}
	for _, d := range c.documents() {
		payload, err := d.payload()
		if err != nil {
			return err
		}
		if !bytes.Equal(payload, w.Bytes) {
			continue
		}
		needs, err := c.needs(d.role)
		if err != nil {
			return err
		}
		for _, n := range needs {
			for id, k := range n.keys {
				if got, err := sign.Fingerprint(k.public); err == nil && got == want {
					return c.AddSignature(d.role, id, w.Value)
				}
			}
		}
	}
	return fmt.Errorf("it is not for the change that waits now: prepare the repository anew")
}
