// Package engine runs builds in an embedded BuildKit.
//
// The slipway binary is both sides. [Serve] hosts BuildKit's controller and
// its runc worker behind a unix socket; [Connect] dials that socket, starting
// the daemon from the same binary when nobody answers. One daemon serves every
// checkout that shares a state root, so concurrent builds share one cache, and
// it exits when it has had no client for a while.
//
// A state root holds:
//
//	lock          flock held by the running daemon
//	start.lock    flock held by a client while it starts or replaces a daemon
//	engine.sock   gRPC: BuildKit's API and a small status/stop service
//	engine.pid    process id of the daemon
//	engine.log    everything the daemon and its libraries log
//	cache.db, history.db, runc-overlayfs/, tmp/  BuildKit's own state
//
// Builds are sealed. The worker has one network provider, the one without a
// network, and no insecure entitlement is granted; sources that need a network
// are refused unless [Job.AllowSources] names them.
//
// BuildKit's cache is a second tier: it is kept across clean stops but its
// index starts empty after a SIGKILL. Results that must last belong in a store
// of the caller.
package engine
