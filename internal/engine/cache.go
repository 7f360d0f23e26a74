package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/buildkit/client"
)

// Usage is the disk space of the engine's cache, in bytes.
type Usage struct {
	Total       int64
	Reclaimable int64 // not in use by a running build
	CacheMounts int64 // compiler caches and the like; part of Total
	Records     int   // number of cache records
}

// DiskUsage measures the cache. The first call after a build may read many
// directories.
func (c *Client) DiskUsage(ctx context.Context) (Usage, error) {
	bk, err := c.buildKit(ctx)
	if err != nil {
		return Usage{}, err
	}
	defer bk.Close()
	records, err := bk.DiskUsage(ctx)
	if err != nil {
		return Usage{}, c.explain(ctx, fmt.Errorf("engine disk usage: %w", err))
	}
	var u Usage
	for _, r := range records {
		u.Records++
		u.Total += r.Size
		if !r.InUse {
			u.Reclaimable += r.Size
		}
		if r.RecordType == client.UsageRecordTypeCacheMount {
			u.CacheMounts += r.Size
		}
	}
	return u, nil
}

// PruneOptions chooses what [Client.Prune] removes. The zero value removes
// everything that no running build uses, except cache mounts.
type PruneOptions struct {
	CacheMounts bool          // cache mounts as well
	KeepFor     time.Duration // keep what was used within this time
	KeepBytes   int64         // stop once the cache is no larger; 0 means no limit
}

// Prune removes cache records and returns how many bytes that freed.
func (c *Client) Prune(ctx context.Context, opt PruneOptions) (freed int64, err error) {
	bk, err := c.buildKit(ctx)
	if err != nil {
		return 0, err
	}
	defer bk.Close()
	records := make(chan client.UsageInfo)
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for r := range records {
			freed += r.Size
		}
	}()
	options := []client.PruneOption{client.PruneAll, client.WithKeepOpt(opt.KeepFor, 0, opt.KeepBytes, 0)}
	if !opt.CacheMounts {
		options = append(options, client.WithFilter([]string{"type!=" + string(client.UsageRecordTypeCacheMount)}))
	}
	err = bk.Prune(ctx, records, options...)
	close(records)
	<-counted
	if err != nil {
		return freed, c.explain(ctx, fmt.Errorf("engine prune: %w", err))
	}
	return freed, nil
}
