// Package source fetches the external files of packages, checks them against the digests of their manifests and keeps them in a
// content store that several processes and checkouts share.
//
// A file comes from the first place that has it: the lookaside caches in order, then its own address. Nothing enters the store
// unverified, and nothing half written is ever visible in it.
package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// Item is one file to fetch. At least one of SHA512 and SHA256 is needed; if both are given, both must fit.
type Item struct {
	Name          string // file name under which a build sees it; one path segment
	URL           string // see ParseURL
	SHA512        string // lower-case hex
	SHA256        string // lower-case hex
	ForceUpstream bool   // ask URL even when Options.Upstream is off
	Owner         string // the target that wants it, such as packages/linux
	File          string // manifest that declares it, for messages
	Line          int    // line in File, from 1; 0 when unknown
}

// Event tells how far an item is. Events of one Fetch come one at a time.
type Event struct {
	Item        *Item
	Done, Total int64  // bytes; Total is 0 while unknown
	State       string // "start", "progress", "done", "cached" or "error"
	Message     string // what is being done, where bytes do not tell ("go mod vendor"), or a notice
	Err         error  // State "error" only
}

// Options of a Fetch. The zero value asks no upstream.
type Options struct {
	Lookaside []string    // base addresses (http, https, file), asked in order for <base>/<name>/<sha512>/<name>
	Upstream  bool        // ask Item.URL after the lookaside caches
	Parallel  int         // items at once; default 4
	OnEvent   func(Event) // may be nil
	Root      string      // folder of the workspace, for "go:./" addresses
	GoTool    string      // go command for "go:" addresses; default "go" from PATH
	Env       []string    // KEY=value settings for the commands that Fetch runs, on top of this process's environment
	AptDir    string      // apt's configuration for "debian:" addresses; default /etc/apt
	AptHelper string      // apt's downloader; default /usr/lib/apt/apt-helper

	ConnectTimeout time.Duration // for a connection and its TLS handshake; default 30 s
	StallTimeout   time.Duration // for a server that sends nothing; default 60 s. There is no limit on the whole.
	RetryDelay     time.Duration // before the first retry, doubled before each further one; default 1 s
}

// DigestError says that what URL gave is not the file that the manifest means. The error that Fetch returns names file, line and address
// around it.
type DigestError struct {
	Item      *Item
	URL       string
	Algorithm string // "sha512" or "sha256"
	Want, Got string // hex
	Size      int64  // bytes received
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("wrong %s\n    expected %s\n    found    %s (%d bytes)\n    nothing was kept; if the new content is right, put the found digest into the manifest",
		e.Algorithm, e.Want, e.Got, e.Size)
}

// ItemError says why an item could not be had: one error for each place that was asked or left out.
type ItemError struct {
	Item *Item
	Errs []error
}

func (e *ItemError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%scannot fetch %s", position(e.Item), e.Item.Name)
	if e.Item.Owner != "" {
		fmt.Fprintf(&b, " of %s", e.Item.Owner)
	}
	if len(e.Errs) == 1 {
		fmt.Fprintf(&b, ": %v", e.Errs[0])
		return b.String()
	}
	b.WriteString(":")
	for _, err := range e.Errs {
		fmt.Fprintf(&b, "\n  %v", err)
	}
	return b.String()
}

// Unwrap gives the causes, so that errors.As finds a DigestError.
func (e *ItemError) Unwrap() []error { return e.Errs }

func position(i *Item) string {
	switch {
	case i.File == "":
		return ""
	case i.Line == 0:
		return i.File + ": "
	}
	return fmt.Sprintf("%s:%d: ", i.File, i.Line)
}

// check returns what is wrong with the item itself, before anything is asked.
func (i *Item) check() error {
	if i.Name == "" || i.Name == "." || i.Name == ".." || strings.ContainsAny(i.Name, "/\x00\n") {
		return fmt.Errorf("%q is no file name", i.Name)
	}
	if i.SHA512 == "" && i.SHA256 == "" {
		return errors.New("no digest: give sha512 (or sha256)")
	}
	if i.SHA512 != "" && !isHex(i.SHA512, 128) {
		return fmt.Errorf("sha512 %q is not 128 lower-case hexadecimal digits", i.SHA512)
	}
	if i.SHA256 != "" && !isHex(i.SHA256, 64) {
		return fmt.Errorf("sha256 %q is not 64 lower-case hexadecimal digits", i.SHA256)
	}
	return nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// Fetch brings the items that the store lacks and returns the blobs by their index in items, also those of a Fetch that failed in
// part. One failure does not stop the others; the error joins an *ItemError for each. After a cancelled context the error wraps its
// cause, and what was received so far is taken up by the next Fetch.
func (s *Store) Fetch(ctx context.Context, items []Item, opt Options) (map[int]Blob, error) {
	if opt.Parallel <= 0 {
		opt.Parallel = 4
	}
	if opt.GoTool == "" {
		opt.GoTool = "go"
	}
	if opt.AptDir == "" {
		opt.AptDir = "/etc/apt"
	}
	if opt.AptHelper == "" {
		opt.AptHelper = "/usr/lib/apt/apt-helper"
	}
	if opt.ConnectTimeout == 0 {
		opt.ConnectTimeout = 30 * time.Second
	}
	if opt.StallTimeout == 0 {
		opt.StallTimeout = time.Minute
	}
	if opt.RetryDelay == 0 {
		opt.RetryDelay = time.Second
	}
	f := &fetcher{store: s, opt: opt, client: newClient(opt)}
	defer f.client.CloseIdleConnections()

	blobs := make(map[int]Blob)
	errs := make([]error, len(items))
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, opt.Parallel)
	for i := range items {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			item := &items[i]
			blob, err := f.fetch(ctx, item)
			if err != nil {
				f.emit(Event{Item: item, State: "error", Err: err})
				if ctx.Err() == nil || !errors.Is(err, ctx.Err()) && !errors.Is(err, context.Cause(ctx)) {
					errs[i] = err
				}
				return
			}
			mu.Lock()
			blobs[i] = blob
			mu.Unlock()
		})
	}
	wg.Wait()
	if ctx.Err() != nil && len(blobs) < len(items) {
		errs = append(errs, fmt.Errorf("fetching stopped: %w", context.Cause(ctx)))
	}
	return blobs, errors.Join(errs...)
}

type fetcher struct {
	store  *Store
	opt    Options
	client *http.Client
	mu     sync.Mutex // serialises OnEvent
}

func (f *fetcher) emit(e Event) {
	if f.opt.OnEvent == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opt.OnEvent(e)
}

// progress reports bytes of one item, not more often than a display can show.
type progress struct {
	f    *fetcher
	item *Item
	last time.Time
}

func (p *progress) bytes(done, total int64) {
	if now := time.Now(); now.Sub(p.last) >= 100*time.Millisecond {
		p.last = now
		p.f.emit(Event{Item: p.item, State: "progress", Done: done, Total: total})
	}
}

func (p *progress) say(format string, args ...any) {
	p.f.emit(Event{Item: p.item, State: "progress", Message: fmt.Sprintf(format, args...)})
}

// attempt is one place that may have the file. get writes it to part, which may hold the beginning of an earlier try.
type attempt struct {
	label string // "lookaside" or "upstream"
	url   string // as shown, without credentials
	get   func(ctx context.Context, part string, p *progress) error
}

func (f *fetcher) fetch(ctx context.Context, item *Item) (Blob, error) {
	if err := item.check(); err != nil {
		return Blob{}, &ItemError{Item: item, Errs: []error{err}}
	}
	u, err := ParseURL(item.URL)
	if err != nil {
		return Blob{}, &ItemError{Item: item, Errs: []error{err}}
	}
	cached := func() (Blob, bool) {
		blob, ok := f.store.Lookup(*item)
		if ok {
			f.emit(Event{Item: item, State: "cached", Done: blob.Size, Total: blob.Size})
		}
		return blob, ok
	}
	if blob, ok := cached(); ok {
		return blob, nil
	}
	unlock, err := f.store.lock(ctx, item.key())
	if err != nil {
		return Blob{}, &ItemError{Item: item, Errs: []error{err}}
	}
	defer unlock()
	if blob, ok := cached(); ok { // another process brought it meanwhile
		return blob, nil
	}

	f.emit(Event{Item: item, State: "start"})
	attempts, errs := f.attempts(item, u)
	for n, a := range attempts {
		blob, err := f.try(ctx, item, a)
		if err == nil {
			f.store.dropParts(item)
			f.emit(Event{Item: item, State: "done", Done: blob.Size, Total: blob.Size})
			return blob, nil
		}
		errs = append(errs, fmt.Errorf("%s %s: %w", a.label, a.url, err))
		var local *storeError
		if ctx.Err() != nil || errors.As(err, &local) { // no other place can help
			break
		}
		var status *statusError
		if n+1 < len(attempts) && !(errors.As(err, &status) && status.code == http.StatusNotFound) {
			f.emit(Event{Item: item, State: "progress", Message: fmt.Sprintf("%v; asking the next place", errs[len(errs)-1])})
		}
	}
	return Blob{}, &ItemError{Item: item, Errs: errs}
}

// attempts lists the places to ask in order. The errors tell of places that cannot be asked.
func (f *fetcher) attempts(item *Item, u URL) ([]attempt, []error) {
	var as []attempt
	var errs []error
	for _, base := range f.opt.Lookaside {
		if item.SHA512 == "" {
			errs = append(errs, fmt.Errorf("lookaside %s: not asked: it goes by sha512, and the manifest gives none", redacted(base)))
			continue
		}
		name := url.PathEscape(item.Name)
		address := strings.TrimSuffix(base, "/") + "/" + name + "/" + item.SHA512 + "/" + name
		lu, err := ParseURL(address)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("lookaside %s: %w", redacted(base), err))
		case lu.Kind == "http":
			as = append(as, f.httpAttempt("lookaside", address))
		case lu.Kind == "file":
			as = append(as, f.fileAttempt("lookaside", address, lu.Path))
		default:
			errs = append(errs, fmt.Errorf("lookaside %s: only http, https and file addresses serve as lookaside caches", redacted(base)))
		}
	}
	if !f.opt.Upstream && !item.ForceUpstream {
		return as, append(errs, fmt.Errorf("upstream %s: not asked: upstream addresses are switched off (upstream = true under [sources], or force-upstream = true for this file, allows it)", redacted(item.URL)))
	}
	switch u.Kind {
	case "http":
		as = append(as, f.httpAttempt("upstream", item.URL))
	case "file":
		as = append(as, f.fileAttempt("upstream", item.URL, u.Path))
	case "debian":
		das, err := f.debianAttempts(u)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstream %s: %w", item.URL, err))
		}
		as = append(as, das...)
	case "go":
		as = append(as, attempt{"upstream", item.URL, func(ctx context.Context, part string, p *progress) error {
			return f.goModule(ctx, u, part, p)
		}})
	case "vendor":
		as = append(as, attempt{"workspace", item.URL, func(ctx context.Context, part string, p *progress) error {
			return f.goVendor(ctx, u, part, p)
		}})
	}
	return as, errs
}

func (f *fetcher) httpAttempt(label, address string) attempt {
	return attempt{label, redacted(address), func(ctx context.Context, part string, p *progress) error {
		return f.httpGet(ctx, address, part, p)
	}}
}

func (f *fetcher) fileAttempt(label, address, path string) attempt {
	return attempt{label, address, func(ctx context.Context, part string, p *progress) error {
		return f.copyFile(ctx, path, part, p)
	}}
}

func (f *fetcher) try(ctx context.Context, item *Item, a attempt) (Blob, error) {
	part := f.store.partPath(item, a.url)
	for {
		st, err := os.Stat(part)
		resumed := err == nil && st.Size() > 0
		if err := a.get(ctx, part, &progress{f: f, item: item}); err != nil {
			if size(part) == 0 {
				removePart(part)
			}
			return Blob{}, err
		}
		blob, err := f.store.admit(item, part, a.url)
		var wrong *DigestError
		if resumed && errors.As(err, &wrong) {
			continue // the beginning may be of another version of the file; admit removed it
		}
		return blob, err
	}
}

// redacted hides the password of an address that is shown.
func redacted(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Redacted()
	}
	return address
}
