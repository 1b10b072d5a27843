//go:build linux

package process

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// command is a spec made ready: what execve(2) gets, and as whom.
type command struct {
	paths    []string // candidates, tried in turn as execvp(3) does
	name     string   // what they are made of; empty: there is one path
	search   string   // PATH, for that
	argv     []string
	env      []string
	dir      string
	home     bool // dir is the user's home, and / will do if that cannot be entered
	account  account.Account
	switches bool // the process gets the ids and groups of account
	limits   processLimits
}

// unknownAccount is the fault of a user or group that was not found.
func unknownAccount(err error) error {
	unknown, ok := errors.AsType[*account.UnknownError](err)
	switch {
	case !ok:
		return newFault(codes.FailedPrecondition, reasonFailed, "%v", err).On("lookup", "", err)
	case unknown.Kind == "group":
		return newFault(codes.FailedPrecondition, reasonNoGroup, "%v", err).On("lookup", unknown.Name, nil).
			Hint("name a group of " + account.GroupFile + ", or a number")
	}
	return newFault(codes.FailedPrecondition, reasonNoUser, "%v", err).On("lookup", unknown.Name, nil).
		Hint("name a user of " + account.PasswdFile + ", or a number")
}

// maxArgs bounds the number of arguments and of environment entries each.
const maxArgs = 1 << 16

// maxLocale bounds the variables of a client's locale: LANG and LC_*, of which glibc
// knows 13.
const maxLocale = 32

// prepare checks a spec and looks up the accounts that it names. It looks at no
// file that a user could own.
func (s *Server) prepare(id sessionID, spec *guestv1.SessionSpec) (*command, error) {
	if err := s.checkBytes(spec); err != nil {
		return nil, err
	}
	acc, err := s.accounts.Find(string(spec.User), string(spec.Group))
	if err != nil {
		return nil, unknownAccount(err)
	}
	c := &command{account: acc, dir: string(spec.Dir)}
	if c.limits, err = newProcessLimits(spec.Limits); err != nil {
		return nil, err
	}
	c.switches = acc.UID != s.uid || acc.GID != s.gid || len(spec.User) > 0 && s.uid == 0
	c.env = s.environment(id, spec, acc)
	switch {
	case c.dir != "" && !filepath.IsAbs(c.dir):
		c.dir = filepath.Join(acc.Home, c.dir)
	case c.dir == "":
		c.dir, c.home = acc.Home, true
	}
	for _, a := range spec.Args {
		c.argv = append(c.argv, string(a))
	}
	if spec.LoginShell {
		c.paths = []string{acc.Shell}
		c.argv = append([]string{"-" + filepath.Base(acc.Shell)}, c.argv...)
	} else {
		c.search = pathOf(c.env, s.cfg.Path)
		if c.paths, c.name = candidates(c.argv[0], c.search); len(c.paths) == 0 {
			return nil, notInPath(c.argv[0], c.search)
		}
	}
	if spec.Arg0 != nil {
		c.argv[0] = string(spec.Arg0)
	}
	return c, nil
}

// checkBytes refuses what no execve(2) can take, before it is asked.
func (s *Server) checkBytes(spec *guestv1.SessionSpec) error {
	if len(spec.Args) == 0 && !spec.LoginShell {
		return newFault(codes.InvalidArgument, reasonBadSpec, "no program to run")
	}
	if len(spec.Locale) > maxLocale {
		return tooLong("more than %d variables of the locale", maxLocale)
	}
	if len(spec.Args) > maxArgs || len(spec.Env) > maxArgs {
		return tooLong("more than %d arguments or environment entries", maxArgs)
	}
	check := func(what string, values ...[]byte) error {
		for _, v := range values {
			if slices.Contains(v, 0) {
				return newFault(codes.InvalidArgument, reasonNul, "%s has a NUL byte: %q", what, short(v)).
					Hint("no Unix program can be given one")
			}
		}
		return nil
	}
	for _, err := range []error{
		check("an argument", spec.Args...),
		check("argument 0", spec.Arg0),
		check("the environment", spec.Env...),
		check("the locale", spec.Locale...),
		check("the directory", spec.Dir),
		check("the user's name", spec.User),
		check("the group's name", spec.Group),
		check("TERM", []byte(spec.GetTerminal().GetTerm())),
	} {
		if err != nil {
			return err
		}
	}
	for _, e := range spec.Env {
		if i := strings.IndexByte(string(e), '='); i <= 0 {
			return newFault(codes.InvalidArgument, reasonBadSpec, "not NAME=value: %q", short(e))
		}
	}
	total := 0
	for _, list := range [][][]byte{spec.Args, spec.Env} {
		for _, v := range list {
			total += len(v) + 1 // with its NUL
		}
	}
	if total > s.cfg.MaxArgBytes {
		return tooLong("arguments and environment are %d bytes, more than %d", total, s.cfg.MaxArgBytes)
	}
	return nil
}

func tooLong(format string, args ...any) error {
	return newFault(codes.InvalidArgument, reasonArgsTooLong, format, args...).
		Hint("pass the data through stdin or a file")
}

// short cuts what goes into an error's text.
func short(b []byte) []byte { return b[:min(len(b), 64)] }

// environment returns the base environment with the spec's own on top. The
// last of several entries with one name wins, and keeps the first's place.
func (s *Server) environment(id sessionID, spec *guestv1.SessionSpec, acc account.Account) []string {
	var entries []string
	if !spec.ClearEnv {
		entries = append(entries, "PATH="+s.cfg.Path, "HOME="+acc.Home, "SHELL="+acc.Shell, markName+"="+id.String())
		if acc.Name != "" {
			entries = append(entries, "USER="+acc.Name, "LOGNAME="+acc.Name)
		}
		if spec.Terminal != nil {
			term := spec.Terminal.Term
			if term == "" {
				term = "xterm-256color"
			}
			entries = append(entries, "TERM="+term)
		}
		entries = append(entries, s.cfg.Env...)
		entries = append(entries, takeLocale(localeDir, spec.Locale)...)
	}
	for _, e := range spec.Env {
		entries = append(entries, string(e))
	}
	at := make(map[string]int, len(entries))
	env := entries[:0]
	for _, e := range entries {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			env[i] = e
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	return env
}

const (
	maxSearch = 1024 // directories of PATH that are searched
	maxName   = 255  // NAME_MAX of Linux's file systems
)

// candidates returns the files that name may mean: itself if it has a slash,
// otherwise one in each directory of path, and then the name again.
func candidates(name, path string) (paths []string, searched string) {
	if strings.Contains(name, "/") {
		return []string{name}, ""
	}
	if name == "" || len(name) > maxName {
		return nil, name
	}
	for d := range strings.SplitSeq(path, ":") {
		if len(paths) == maxSearch {
			break
		}
		if d == "" {
			d = "."
		}
		if len(d) < unix.PathMax {
			paths = append(paths, strings.TrimRight(d, "/")+"/"+name)
		}
	}
	return paths, name
}

// lookUp chooses the program and the directory for a program that has no launcher.
func (c *command) lookUp() (path, dir string, homeless syscall.Errno, err error) {
	dir = c.dir
	if c.home {
		// Beyond a name that ends so, the directory has to be searched.
		if _, err := os.Stat(dir + "/."); err != nil {
			homeless, _ = errors.AsType[syscall.Errno](err)
			dir = "/"
		}
	}
	if c.name == "" {
		return c.paths[0], dir, homeless, nil
	}
	refused := ""
	for _, path = range c.paths {
		file := path
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		info, err := os.Stat(file)
		switch {
		case err != nil:
		case info.Mode().IsRegular() && info.Mode()&0o111 != 0:
			return path, dir, homeless, nil
		default:
			refused = path
		}
	}
	return "", "", 0, lookupFault(c.name, c.search, refused)
}

// lookupFault is for a name that was looked up in vain; refused is what was found
// and is no program.
func lookupFault(name, search, refused string) *fault {
	if refused != "" {
		return newFault(codes.FailedPrecondition, reasonNotExecutable, "%q is not executable", refused).On("exec", refused, syscall.EACCES)
	}
	return notInPath(name, search)
}

// notInPath is the fault of a name that no directory of path has.
func notInPath(name, path string) *fault {
	return newFault(codes.NotFound, reasonNotFound, "%q is not in the PATH, which is %q", short([]byte(name)), path).
		On("exec", name, syscall.ENOENT)
}

// pathOf returns PATH in env, or preset if it is not there.
func pathOf(env []string, preset string) string {
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			return path
		}
	}
	return preset
}
