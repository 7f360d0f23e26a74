package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	serviceName  = "slipway.engine.v1.Engine"
	methodStatus = "/" + serviceName + "/Status"
	methodStop   = "/" + serviceName + "/Stop"
)

var errStopRequested = errors.New("stop requested")

// daemonService answers what BuildKit's own API does not: which binary runs,
// who uses it, and please stop. Its messages are protobuf's well-known types,
// so it needs no generated code.
type daemonService struct {
	pid      int
	build    string
	buildKit string
	started  time.Time
	use      *usage
	stop     context.CancelCauseFunc
}

type daemonServer interface {
	status(context.Context, *emptypb.Empty) (*structpb.Struct, error)
	stopDaemon(context.Context, *wrapperspb.BoolValue) (*emptypb.Empty, error)
}

func (s *daemonService) status(context.Context, *emptypb.Empty) (*structpb.Struct, error) {
	builds, clients := s.use.counts()
	return structpb.NewStruct(map[string]any{
		"pid":      s.pid,
		"build":    s.build,
		"buildkit": s.buildKit,
		"started":  s.started.Format(time.RFC3339Nano),
		"builds":   builds,
		// Each running build has a connection of its own; the asker is no other.
		"clients": max(0, clients-builds-1),
	})
}

// stopDaemon stops the daemon; with a true argument only when nobody but the
// caller uses it.
func (s *daemonService) stopDaemon(_ context.Context, onlyIdle *wrapperspb.BoolValue) (*emptypb.Empty, error) {
	if onlyIdle.GetValue() {
		if builds, clients := s.use.counts(); builds > 0 || clients > 1 {
			return nil, status.Error(codes.FailedPrecondition, "the engine is in use")
		}
	}
	s.stop(errStopRequested)
	return &emptypb.Empty{}, nil
}

func registerService(server *grpc.Server, s *daemonService) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*daemonServer)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Status", Handler: unary(methodStatus, s.status)},
			{MethodName: "Stop", Handler: unary(methodStop, s.stopDaemon)},
		},
	}, s)
}

// unary adapts a typed method to the handler shape of a gRPC service
// description.
func unary[Req, Resp any](method string, call func(context.Context, *Req) (Resp, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := new(Req)
		if err := decode(req); err != nil {
			return nil, err
		}
		handler := func(ctx context.Context, req any) (any, error) { return call(ctx, req.(*Req)) }
		if intercept == nil {
			return handler(ctx, req)
		}
		return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, handler)
	}
}

// usage counts the daemon's connections and running builds. It
// is a [stats.Handler], since only there gRPC tells of connections.
type usage struct {
	mu      sync.Mutex
	builds  int
	clients int
	since   time.Time // when clients last became zero
}

func (u *usage) counts() (builds, clients int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.builds, u.clients
}

// idleFor reports how long no client has been connected.
func (u *usage) idleFor() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.clients > 0 {
		return 0
	}
	return time.Since(u.since)
}

func (u *usage) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (u *usage) HandleConn(_ context.Context, s stats.ConnStats) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		u.clients++
	case *stats.ConnEnd:
		u.clients--
		u.since = time.Now()
	}
}

type buildCall struct{}

func (u *usage) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName == "/moby.buildkit.v1.Control/Solve" {
		return context.WithValue(ctx, buildCall{}, true)
	}
	return ctx
}

func (u *usage) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if ctx.Value(buildCall{}) == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch s.(type) {
	case *stats.Begin:
		u.builds++
	case *stats.End:
		u.builds--
	}
}
