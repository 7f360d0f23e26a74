package engine

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
)

// fromBegin is a content store whose writers begin at the first byte. containerd goes
// on where an earlier transfer broke off, because slipway or the engine was killed,
// but BuildKit cannot read an image of its client from the middle ("unsupported
// offset"), so that no build would ever get that layer again.
type fromBegin struct{ content.Store }

func (s fromBegin) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	status, err := w.Status()
	if err == nil && status.Offset > 0 {
		err = w.Truncate(0)
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}
