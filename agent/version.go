//go:build linux

package agent

import (
	"runtime/debug"
	"strings"
)

const modulePath = "github.com/vsockrpc/vsockrpc"

// BuildVersion returns the version of this module in the running program, from
// its build information: a release such as "v0.3.0", a pseudo-version of the
// commit that it was built from, or "devel" if neither is known.
func BuildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return versionOf(info)
}

func versionOf(info *debug.BuildInfo) string {
	module := info.Main
	if module.Path != modulePath {
		for _, dep := range info.Deps {
			if dep.Path == modulePath {
				module = *dep
			}
		}
	}
	if module.Path == modulePath && module.Version != "" && module.Version != "(devel)" {
		return module.Version
	}
	// A build from a work tree where the go command did not derive a version.
	var revision, modified string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				modified = "modified"
			}
		}
	}
	return strings.Join(nonEmpty("devel", revision, modified), "-")
}

func nonEmpty(parts ...string) []string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}
