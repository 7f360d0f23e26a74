package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const retries = 3

func newClient(opt Options) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: opt.ConnectTimeout}).DialContext,
		TLSHandshakeTimeout:   opt.ConnectTimeout,
		ResponseHeaderTimeout: opt.StallTimeout,
		DisableCompression:    true, // digests and lengths are those of the file as stored
		ForceAttemptHTTP2:     true,
	}}
}

type statusError struct {
	code   int
	status string
}

func (e *statusError) Error() string { return "the server answered " + e.status }

var errStalled = errors.New("the server sent nothing for too long")

// httpGet downloads address to part, going on where an earlier try broke off.
func (f *fetcher) httpGet(ctx context.Context, address, part string, p *progress) error {
	delay := f.opt.RetryDelay
	for n := 0; ; n++ {
		err := f.httpOnce(ctx, address, part, p)
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		if n == retries {
			return fmt.Errorf("%w (tried %d times)", err, n+1)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(delay):
		}
		delay *= 2
	}
}

// passing tells whether a later try may succeed.
func passing(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == http.StatusTooManyRequests || status.code == http.StatusRequestTimeout
	}
	var local *storeError
	var cert *tls.CertificateVerificationError
	return !errors.As(err, &local) && !errors.As(err, &cert)
}

func (f *fetcher) httpOnce(ctx context.Context, address, part string, p *progress) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(f.opt.ConnectTimeout+f.opt.StallTimeout, func() { cancel(errStalled) })
	defer watchdog.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("%w (%v)", errStalled, f.opt.StallTimeout)
		}
	}()

	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	validator, _ := os.ReadFile(validatorPath(part))

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "slipway")
	if have > 0 && len(validator) > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		req.Header.Set("If-Range", string(validator))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if start, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || start != have {
			removePart(part)
			return fmt.Errorf("the server sent the range %q where bytes from %d on were asked", resp.Header.Get("Content-Range"), have)
		}
	case http.StatusOK:
		if err := out.Truncate(0); err != nil {
			return f.store.failed(part, err, 0, 0)
		}
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			return f.store.failed(part, err, 0, 0)
		}
		have = 0
		if err := saveValidator(part, resp.Header); err != nil {
			return f.store.failed(part, err, 0, resp.ContentLength)
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if resp.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", have) {
			return nil // all of it was here already
		}
		removePart(part)
		return errors.New("the server refused to go on with the part that is here; it was dropped")
	default:
		return &statusError{resp.StatusCode, resp.Status}
	}

	var total int64
	if resp.ContentLength > 0 {
		total = have + resp.ContentLength
	}
	buf := make([]byte, 128<<10)
	for {
		watchdog.Reset(f.opt.StallTimeout)
		n, rerr := resp.Body.Read(buf)
		if _, err := out.Write(buf[:n]); err != nil {
			return f.store.failed(part, err, have, total)
		}
		have += int64(n)
		p.bytes(have, total)
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return fmt.Errorf("broken off after %d bytes: %w", have, rerr)
		}
	}
	if err := out.Close(); err != nil {
		return f.store.failed(part, err, have, total)
	}
	return nil
}

// rangeStart reads the first offset of "bytes 10-99/100" (RFC 9110, 14.4).
func rangeStart(header string) (int64, bool) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return 0, false
	}
	first, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(first, 10, 64)
	return n, err == nil
}

// saveValidator keeps what If-Range may carry: a strong ETag, else the date (RFC 9110, 13.1.5). Without one nothing is resumed.
func saveValidator(part string, h http.Header) error {
	v := h.Get("ETag")
	if v == "" || strings.HasPrefix(v, "W/") {
		v = h.Get("Last-Modified")
	}
	return os.WriteFile(validatorPath(part), []byte(v), 0o644)
}

// copyFile brings a file of this machine.
func (f *fetcher) copyFile(ctx context.Context, path, part string, p *progress) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	out, err := os.Create(part)
	if err != nil {
		return f.store.failed(part, err, 0, st.Size())
	}
	defer out.Close()
	var done int64
	for ctx.Err() == nil {
		n, err := io.CopyN(out, in, 16<<20)
		done += n
		p.bytes(done, st.Size())
		if errors.Is(err, io.EOF) {
			if err := out.Close(); err != nil {
				return f.store.failed(part, err, done, st.Size())
			}
			return nil
		}
		if err != nil {
			return f.store.failed(part, err, done, st.Size())
		}
	}
	removePart(part)
	return context.Cause(ctx)
}
