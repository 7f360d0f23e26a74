package recipe

import (
	"path"

	"github.com/moby/buildkit/client/llb"
)

// Command is something to run in the SDK that leaves no result.
type Command struct {
	Sandbox
	Workspace string   // folder on the host, mounted without its build/ folder
	Dir       string   // slash-separated working directory below Workspace
	Args      []string // command and arguments
}

// Build gives the LLB that runs the command, each time anew.
func (c Command) Build() Build {
	const local = "workspace"
	files := llb.Local(local, llb.ExcludePatterns([]string{"build"}), llb.SharedKeyHint(local+":"+c.Workspace), llb.WithCustomName("[internal] "+local))
	run := c.run("sdk run", `exec "$@"`, c.Args, []llb.RunOption{
		llb.IgnoreCache,
		llb.AddMount("/slipway/workspace", files),
		llb.Dir(path.Join("/slipway/workspace", c.Dir)),
		c.cache("go-build", "/home/builder/.cache/go-build"),
		llb.User("builder"),
		llb.AddEnv("HOME", "/home/builder"),
		llb.AddEnv("GOFLAGS", "-buildvcs=false"),
		llb.AddEnv("GOTOOLCHAIN", "local"),
	})
	return Build{State: run.AddMount(homeDir, home()), Locals: map[string]string{local: c.Workspace}}
}
