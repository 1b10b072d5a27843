//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/internal/spelling"
	"github.com/vsockrpc/vsockrpc/internal/system"
	"github.com/vsockrpc/vsockrpc/keys"
	"github.com/vsockrpc/vsockrpc/transport"
)

// settings are what the flags say.
type settings struct {
	listen   list[listenAddr]
	peer     access.Mode
	allowCID list[uint32]
	init     bool
	grace    time.Duration
	logLevel slog.Level
	version  bool

	hosts       list[string] // files of keys, and keys
	requireKeys bool
	stateDir    string
	policy      string
	audit       string
	filesRoot   string

	// unknown names settings that this version does not know.
	unknown []string
	// locked says why it is not known who may call, or what: a setting that says so
	// is wrong. Empty: it is known.
	locked string
}

const (
	envPrefix    = "GUEST_AGENT_"
	kernelPrefix = "guest-agent."
)

// defaultAddr is where the agent listens if nothing says otherwise.
var defaultAddr = listenAddr{Addr: transport.VsockAddr(transport.CIDAny, transport.AgentPort)}

// A listenAddr is where the agent listens, and what it offers there.
type listenAddr struct {
	transport.Addr
	face access.Face
}

// faceOption stands between an address and the face there.
const faceOption = "?face="

// String returns the address as parseListen takes it.
func (a listenAddr) String() string {
	if a.face == access.FaceAll {
		return a.Addr.String()
	}
	return a.Addr.String() + faceOption + string(a.face)
}

const usage = `guest-agent answers the host over vsock: it runs processes and tells about this guest.

usage: guest-agent [flag]...

A list is given by repeating the flag or with commas. Each flag can also be given
by the environment (--log-level is GUEST_AGENT_LOG_LEVEL) and on the kernel's
command line (guest-agent.log-level=debug); a flag goes first, then the
environment.

flags:
`

// parseSettings takes settings from the kernel's command line, the environment
// ("NAME=value") and flags, the last of which wins. Help goes to out.
//
// It always returns settings of use: with the values that were wrong left out,
// and the errors joined. With -h the error is flag.ErrHelp. A name that is not
// known is an error among the flags, and elsewhere if it looks like a setting of who
// may call: otherwise the kernel's command line may be that of a host which knows
// newer agents. After errors about who may call, locked has them.
func parseSettings(args, environ []string, kernel []system.KernelArg, out io.Writer) (*settings, error) {
	s := &settings{
		peer:     access.ModeAuto,
		listen:   list[listenAddr]{parse: parseListen},
		allowCID: list[uint32]{parse: parseCID},
		grace:    5 * time.Second,
		hosts:    list[string]{parse: parseHosts},
		stateDir: "/var/lib/guest-agent",
		policy:   "/etc/guest-agent/policy.toml",
		audit:    "off",
	}
	fs := flag.NewFlagSet("guest-agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(&s.listen, "listen", "listen on `ADDR`: vsock:any:PORT or unix:/path; with ?face=user or ?face=control at its end, for a part\nof the services only; a list (default "+defaultAddr.String()+")")
	fs.Func("peer", "trust on vsock `WHO`: host-root (ports below 1024 of the host), host (every process of the host; for a VMM\nwhose vsock is a Unix socket with permissions of its own), or auto (host where the firmware tells such a VMM,\nhost-root elsewhere) (default auto)", func(v string) error {
		m, err := access.ParseMode(v)
		if err == nil {
			s.peer = m
		}
		return err
	})
	fs.Var(&s.allowCID, "allow-cid", "take the machine with this `CID` for the host, besides 2; a list")
	fs.BoolVar(&s.init, "init", false, "do the work of the first process of a guest: mount file systems, load modules for vsock, power off in the end;\nthe default if the agent is the first process of the machine")
	fs.Func("grace", "how long calls may go on after SIGTERM, a `DURATION` (default 5s)", func(v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return errors.New("want a duration such as 5s or 500ms")
		}
		s.grace = d
		return nil
	})
	fs.Func("log-level", "log from this `LEVEL` on: debug, info, warn or error (default info)", func(v string) error {
		var l slog.Level
		if err := l.UnmarshalText([]byte(v)); err != nil {
			return errors.New("want debug, info, warn or error")
		}
		s.logLevel = l
		return nil
	})
	fs.Var(&s.hosts, "authorized-hosts", "let the holders of these keys call: `FILE` (absolute), or a key (the second word of a public key in OpenSSH's\nform); a list, beside the credential guest-agent.authorized_hosts (default "+defaultHosts+")")
	fs.BoolVar(&s.requireKeys, "require-keys", false, "trust nobody who shows no key, the host's root neither")
	fs.Func("state-dir", "keep the agent's own key, and what host-ctl enroll changes, in `DIR` (default /var/lib/guest-agent)", absolute(&s.stateDir))
	fs.Func("policy", "what callers may do, once this `FILE` exists (default /etc/guest-agent/policy.toml)", absolute(&s.policy))
	fs.Func("audit", "write a line of JSON for each call to `WHERE`: stderr, a file, or off (default off)", func(v string) error {
		if v != "off" && v != "stderr" && !filepath.IsAbs(v) {
			return errors.New("want stderr, off or an absolute path")
		}
		s.audit = v
		return nil
	})
	fs.Func("files-root", "confine the file service to what is below `DIR`: it is / to those who copy and list (default no bound)", absolute(&s.filesRoot))
	fs.BoolVar(&s.version, "version", false, "print the version and exit")

	var errs, locks []error
	wrong := func(name string, err error) {
		errs = append(errs, err)
		if isAboutCallers(name) {
			locks = append(locks, err)
		}
	}
	set := func(source, name, value string) {
		if err := fs.Set(name, value); err != nil {
			wrong(name, fmt.Errorf("%s=%s: %w", source, value, err))
		}
	}
	unknown := func(source, name string) {
		s.unknown = append(s.unknown, source)
		if name != "version" && isAboutCallers(name) {
			wrong(name, fmt.Errorf("%s: there is no such setting, and it looks like one of who may call", source))
		}
	}
	for _, a := range kernel {
		name, ok := strings.CutPrefix(strings.ReplaceAll(a.Name, "_", "-"), kernelPrefix)
		if !ok {
			continue
		}
		if f := fs.Lookup(name); f == nil || name == "version" {
			unknown(a.Name, name)
		} else {
			set("kernel argument "+a.Name, name, orTrue(f, a.Value))
		}
	}
	s.listen.next()
	s.allowCID.next()
	s.hosts.next()
	for _, e := range environ {
		variable, value, _ := strings.Cut(e, "=")
		name, ok := strings.CutPrefix(variable, envPrefix)
		if !ok || value == "" {
			continue
		}
		name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if fs.Lookup(name) == nil || name == "version" {
			unknown(variable, name)
		} else {
			set(variable, name, value)
		}
	}
	s.listen.next()
	s.allowCID.next()
	s.hosts.next()
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		fs.SetOutput(out)
		fs.PrintDefaults()
		return s, err
	case err != nil:
		errs, locks = append(errs, err), append(locks, err) // the flags after it are not read
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q: guest-agent takes flags only", fs.Arg(0))
		errs, locks = append(errs, err), append(locks, err)
	}
	if err := errors.Join(locks...); err != nil {
		s.locked = oneLine(err)
	}
	return s, errors.Join(errs...)
}

// harmless are the settings that do not say who may call, or what.
var harmless = []string{"init", "grace", "log-level", "version"}

// aboutCallers are parts of names of settings that do, in this version or in another.
var aboutCallers = []string{"peer", "cid", "key", "auth", "polic", "root", "face", "listen", "audit",
	"requir", "allow", "deny", "trust", "tls", "secur", "only", "user", "role", "cert", "restrict", "lock"}

// isAboutCallers reports whether a setting says who may call, or what, or looks like
// one that does.
func isAboutCallers(name string) bool {
	name = strings.ToLower(name)
	if slices.Contains(harmless, name) {
		return false
	}
	return slices.ContainsFunc(aboutCallers, func(part string) bool { return strings.Contains(name, part) }) ||
		slices.ContainsFunc([]string{"peer", "allow-cid", "require-keys", "authorized-hosts", "policy", "files-root", "listen", "audit", "state-dir"},
			func(known string) bool { return near(name, known) })
}

// near reports whether a name differs from another by two letters at most: changed,
// missing, or too many.
func near(a, b string) bool {
	const most = 2
	return max(len(a), len(b))-min(len(a), len(b)) <= most && spelling.Distance(a, b) <= most
}

// orTrue lets a bare word on the kernel's command line switch a flag on.
func orTrue(f *flag.Flag, value string) string {
	if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() && value == "" {
		return "true"
	}
	return value
}

// A list is a flag that may be repeated. Values of a source that goes before
// another replace those of the other.
type list[T any] struct {
	values []T
	parse  func(string) (T, error)
	old    bool // values are of another source
}

// next says that values come from another source from now on.
func (l *list[T]) next() { l.old = true }

// String returns the values with commas.
func (l *list[T]) String() string {
	if l == nil {
		return ""
	}
	words := make([]string, len(l.values))
	for i, v := range l.values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ",")
}

// Set adds values, all or none of them.
func (l *list[T]) Set(s string) error {
	var values []T
	for word := range strings.SplitSeq(s, ",") {
		v, err := l.parse(word)
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	if l.old {
		l.values, l.old = nil, false
	}
	l.values = append(l.values, values...)
	return nil
}

func parseListen(s string) (listenAddr, error) {
	var a listenAddr
	var err error
	if i := strings.LastIndex(s, faceOption); i >= 0 {
		if a.face, err = access.ParseFace(s[i+len(faceOption):]); err != nil {
			return a, err
		}
		s = s[:i]
	}
	a.Addr, err = transport.ParseAddr(s)
	switch {
	case err != nil:
		return a, err
	case a.Net == transport.NetworkMux:
		return a, fmt.Errorf("%s: a guest listens on vsock itself, or on a Unix socket; vsock-mux is the host's way to reach it", s)
	}
	return a, nil
}

// parseHosts takes an absolute path, or a key.
func parseHosts(s string) (string, error) {
	if filepath.IsAbs(s) {
		return s, nil
	}
	_, err := keys.ParseBase64(s)
	if err != nil {
		return "", fmt.Errorf("want an absolute path, or a key: %w", err)
	}
	return s, nil
}

// absolute returns a function that sets a path.
func absolute(to *string) func(string) error {
	return func(v string) error {
		if !filepath.IsAbs(v) {
			return errors.New("want an absolute path")
		}
		*to = v
		return nil
	}
}

func parseCID(s string) (uint32, error) {
	if s == "local" {
		return transport.CIDLocal, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || uint32(n) == transport.CIDAny {
		return 0, fmt.Errorf("CID %q: want a number from 1 on", s)
	}
	return uint32(n), nil
}
