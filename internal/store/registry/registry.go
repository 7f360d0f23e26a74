// Package registry is a team's shared cache of build results in an OCI registry
// (https://github.com/opencontainers/distribution-spec/blob/main/spec.md). It
// moves manifests and blobs between one repository and its caller, and signs and
// verifies them; it knows no local store.
//
// A result is an OCI artifact manifest whose config has the digest
// "sha256:"+key, so that a manifest proves by itself which key it answers. It
// lies under the tag key. Signatures are those of cosign.
//
// A build must not suffer from its cache: a registry that is dead, slow or
// refuses access is given up after the first failure, with one warning.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

var (
	// ErrNotFound says that the registry has no such manifest or blob.
	ErrNotFound = errors.New("not in the registry")
	// ErrDown says that the registry failed and is not asked any more. Whoever
	// gave OnWarn has been told why.
	ErrDown = errors.New("the registry is down")
	// ErrReadOnly says that results are not pushed: Config.Write is off, or the
	// registry refused a write, which OnWarn has been told.
	ErrReadOnly = errors.New("the registry takes no results")
	// ErrCorrupt says that what the registry sent is not what it was asked for.
	ErrCorrupt = errors.New("corrupt entry in the registry")
	// ErrUnsigned says that a manifest has no signature, where one is required.
	ErrUnsigned = errors.New("not signed")
	// ErrBadSignature says that no signature of a manifest is by an allowed key.
	ErrBadSignature = errors.New("not signed by an allowed key")

	errStalled = errors.New("the transfer stands still or crawls")
)

const (
	dialTimeout = 3 * time.Second
	// A registry may move a large blob to its final place before it answers.
	writeFactor = 6
)

// Config says which registry to use, and how.
type Config struct {
	Ref         string // repository, "registry.example.com/team/slipway-cache"
	Read, Write bool   // whether to look results up, and to push them
	// Insecure allows plain HTTP where the registry speaks no HTTPS. Loopback
	// addresses need no such leave.
	Insecure bool
	// PublicKeys are the keys that results may be signed with. With none,
	// signatures are not asked for.
	PublicKeys []*PublicKey
	SignKey    *PrivateKey          // signs what is pushed; nil: nothing is signed
	Timeout    time.Duration        // for an answer to begin; 0: 10 s
	Stall      time.Duration        // for a transfer to get on; 0: 15 s
	Patience   time.Duration        // with answers that are slow to come, in all; 0: 30 s
	Jobs       int                  // parallel transfers in each direction; 0: 6
	OnWarn     func(message string) // may be called from any goroutine; nil: nobody is told
}

// Stats are what has been moved since Open.
type Stats struct {
	FetchedBytes int64 // of blobs that arrived whole
	PushedBytes  int64 // of blobs that the registry was given (or had already)
	Pushed       int64 // manifests that the registry was given
}

// Registry is one repository of a registry. Its methods may be called in
// parallel.
type Registry struct {
	cfg  Config
	repo name.Repository

	pull, push session
	gets, puts chan struct{} // bounds of parallel transfers

	down     atomic.Pointer[error]
	readOnly atomic.Pointer[error]

	waited        atomic.Int64 // nanoseconds of Config.Patience that are used up
	arrived, sent atomic.Int64 // bytes, of transfers that did not end well, too

	fetchedBytes, pushedBytes, pushed atomic.Int64
}

// session is a connection in one direction, which has its own rights.
type session struct {
	base   *http.Transport
	scope  string
	mu     sync.Mutex // held while the registry is greeted for the first time
	client *http.Client
}

// Open checks the configuration. It asks the registry nothing yet.
func Open(cfg Config) (*Registry, error) {
	bad := func(why string) error {
		return fmt.Errorf("registry %q: %s: want host[:port]/path, such as registry.example.com/team/slipway-cache", cfg.Ref, why)
	}
	if scheme, _, ok := strings.Cut(cfg.Ref, "://"); ok {
		return nil, bad(fmt.Sprintf("it begins with %s://", scheme))
	}
	host, path, _ := strings.Cut(cfg.Ref, "/")
	if host == "" || path == "" {
		return nil, bad("it has no host or no path")
	}
	if strings.ContainsAny(path, ":@") {
		return nil, bad("it has a tag or a digest")
	}
	opts := []name.Option{name.StrictValidation}
	plain := cfg.Insecure || loopback(host)
	if plain {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(cfg.Ref, opts...)
	if err != nil {
		return nil, bad(err.Error())
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Stall <= 0 {
		cfg.Stall = 15 * time.Second
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 30 * time.Second
	}
	if cfg.Jobs <= 0 {
		cfg.Jobs = 6
	}
	base := func(answer time.Duration) *http.Transport {
		return &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: min(dialTimeout, cfg.Timeout), KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   cfg.Timeout,
			ResponseHeaderTimeout: answer,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   2 * cfg.Jobs,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // digests are those of the bytes as stored
		}
	}
	return &Registry{
		cfg:  cfg,
		repo: repo,
		pull: session{base: base(cfg.Timeout), scope: transport.PullScope},
		push: session{base: base(writeFactor * cfg.Timeout), scope: transport.PushScope},
		gets: make(chan struct{}, cfg.Jobs),
		puts: make(chan struct{}, cfg.Jobs),
	}, nil
}

// Ref is the repository, "registry.example.com/team/slipway-cache".
func (r *Registry) Ref() string { return r.cfg.Ref }

// Readable reports whether looking up makes sense: it is wanted, and the
// registry is not down.
func (r *Registry) Readable() bool { return r.cfg.Read && r.Down() == nil }

// Writable reports whether pushing makes sense: it is wanted, and the registry is
// not down and has refused no write.
func (r *Registry) Writable() bool { return r.writable() == nil }

// Down is nil, or why the registry is not asked any more: an ErrDown.
func (r *Registry) Down() error {
	if err := r.down.Load(); err != nil {
		return *err
	}
	return nil
}

// Stats tells what has been moved so far.
func (r *Registry) Stats() Stats {
	return Stats{FetchedBytes: r.fetchedBytes.Load(), PushedBytes: r.pushedBytes.Load(), Pushed: r.pushed.Load()}
}

// Close drops idle connections.
func (r *Registry) Close() {
	r.pull.base.CloseIdleConnections()
	r.push.base.CloseIdleConnections()
}

func (r *Registry) writable() error {
	if err := r.Down(); err != nil {
		return err
	}
	if err := r.readOnly.Load(); err != nil {
		return *err
	}
	if !r.cfg.Write {
		return ErrReadOnly
	}
	return nil
}

// connect greets the registry, once for each direction: it finds out how to log
// in, and does so with the credentials of Docker's configuration and its helpers.
func (r *Registry) connect(ctx context.Context, s *session) (*http.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := r.Down(); err != nil {
		return nil, err
	}
	if s.client != nil {
		return s.client, nil
	}
	err := again(ctx, func() (_ int64, err error) {
		s.client, err = r.greet(ctx, s)
		return 0, err
	})
	return s.client, err
}

func (r *Registry) greet(ctx context.Context, s *session) (*http.Client, error) {
	limited, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	type answer struct {
		rt  http.RoundTripper
		err error
	}
	// a credential helper heeds no context
	got := make(chan answer, 1)
	go func() {
		auth, err := authn.Resolve(limited, authn.DefaultKeychain, r.repo)
		if err != nil {
			got <- answer{err: fmt.Errorf("read credentials: %w", err)}
			return
		}
		base := transport.NewUserAgent(guard{s.base, r.cfg.Insecure}, "slipway")
		rt, err := transport.NewWithContext(limited, r.repo.Registry, auth, base, []string{r.repo.Scope(s.scope)})
		got <- answer{rt, err}
	}()
	select {
	case a := <-got:
		var status *transport.Error
		if errors.As(a.err, &status) && status.StatusCode == http.StatusNotFound {
			// not to be taken for a manifest that is not there
			return nil, fmt.Errorf("%s speaks no registry protocol: %s", r.repo.RegistryStr(), status.Error())
		}
		if a.err != nil {
			return nil, a.err
		}
		return &http.Client{Transport: a.rt}, nil
	case <-limited.Done():
		return nil, fmt.Errorf("no answer within %v: %w", r.cfg.Timeout, limited.Err())
	}
}

// judge says what the failure of a read means for the registry as a whole. ctx is
// the caller's: when it ended, the registry is not to blame.
func (r *Registry) judge(ctx context.Context, err error) error {
	var status *transport.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrDown), errors.Is(err, ErrCorrupt), errors.As(err, new(*localError)):
		return err
	case !errors.As(err, &status):
		return r.giveUp(err, "cannot be used", "building without it; see [cache] in slipway.toml")
	case status.StatusCode == http.StatusNotFound, hasCode(status, transport.NameUnknownErrorCode):
		return ErrNotFound
	case denied(status):
		return r.giveUp(err, "refuses access", "building without it; log in to "+r.repo.RegistryStr()+", or see [cache] in slipway.toml")
	}
	return r.giveUp(err, "fails", "building without it; see [cache] in slipway.toml")
}

// judgeWrite does the same for a write. A registry that only refuses writes is
// still read.
func (r *Registry) judgeWrite(ctx context.Context, err error) error {
	if errors.Is(err, ErrReadOnly) {
		return err
	}
	var status *transport.Error
	if err == nil || ctx.Err() != nil || !errors.As(err, &status) || status.StatusCode >= 500 ||
		status.StatusCode == http.StatusTooManyRequests || status.StatusCode == http.StatusRequestTimeout {
		return r.judge(ctx, err)
	}
	for _, code := range []transport.ErrorCode{
		transport.ManifestBlobUnknownErrorCode, transport.BlobUploadUnknownErrorCode,
		transport.BlobUploadInvalidErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode,
	} {
		if hasCode(status, code) {
			return err // this one result cannot be pushed
		}
	}
	wrapped := fmt.Errorf("%w: %w", ErrReadOnly, err)
	if r.readOnly.CompareAndSwap(nil, &wrapped) {
		r.warn("takes no results", err, "what is built stays on this machine; see [cache] in slipway.toml")
	}
	return wrapped
}

func (r *Registry) giveUp(err error, what, then string) error {
	wrapped := fmt.Errorf("%w: %w", ErrDown, err)
	if r.down.CompareAndSwap(nil, &wrapped) {
		r.warn(what, err, then)
	}
	return wrapped
}

func (r *Registry) warn(what string, err error, then string) {
	if r.cfg.OnWarn == nil {
		return
	}
	// the address of a blob may hold a secret
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // only the outermost has the address of a blob
		err = u.Err
	}
	r.cfg.OnWarn(fmt.Sprintf("the team cache registry %s %s: %v: %s", r.cfg.Ref, what, err, then))
}

func denied(status *transport.Error) bool {
	return status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden
}

func hasCode(status *transport.Error, code transport.ErrorCode) bool {
	for _, d := range status.Errors {
		if d.Code == code {
			return true
		}
	}
	return false
}

// guard keeps credentials off plain HTTP. The library below would use it for
// private addresses as well.
type guard struct {
	base     http.RoundTripper
	insecure bool
}

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && !g.insecure && !loopback(req.URL.Host) {
		return nil, fmt.Errorf("%s speaks plain HTTP, which is not allowed (insecure = true allows it)", req.URL.Host)
	}
	return g.base.RoundTrip(req)
}

// loopback reports whether host[:port] is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
