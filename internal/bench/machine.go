package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A fact is one line about the machine or the software.
type fact struct{ name, value string }

func machineFacts() []fact {
	facts := []fact{
		{"date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"CPU", cpuModel() + ", " + strconv.Itoa(runtime.NumCPU()) + " usable"},
		{"system", kernel()},
		{"Go", runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH},
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) >= 3 {
			facts = append(facts, fact{"load before the run", strings.Join(f[:3], " ")})
		}
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return facts
	}
	versions := ""
	for _, path := range []string{
		"google.golang.org/grpc", "google.golang.org/protobuf", "github.com/containerd/ttrpc", "storj.io/drpc", "connectrpc.com/connect",
	} {
		for _, dep := range info.Deps {
			if dep.Path == path {
				versions += ", " + path[strings.LastIndexByte(path, '/')+1:] + " " + dep.Version
			}
		}
	}
	return append(facts, fact{"versions", strings.TrimPrefix(versions, ", ")})
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range bytes.Lines(b) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(name)) == "model name" {
			return string(bytes.TrimSpace(value))
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}
