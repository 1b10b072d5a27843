//go:build linux

package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// mallory is the holder of a restricted key, with the SDK and with messages of her
// own making.
type mallory struct {
	*guest.Guest
	files   guestv1.FileServiceClient
	process guestv1.ProcessServiceClient
	forward guestv1.ForwardServiceClient
}

// attack starts an agent in which mallory has what rules say of her role, and returns
// her with a directory of the guest's, in which DIR of the rules is.
func attack(t *testing.T, rules string) (*mallory, string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g := guard(t, publicKey(bobSeed).String()+" mallory\n", "[roles.mallory]\nkeys = ['"+publicKey(bobSeed).Fingerprint()+"']\n"+strings.ReplaceAll(rules, "DIR", dir))
	tc, err := keys.ClientConfig(seedKey(bobSeed), func(keys.Public) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	sdk, err := guest.Dial(t.Context(), "attacked", &guest.Config{Dialer: g.dial, TLS: tc})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sdk.Close() })
	conn, _ := g.client(bobSeed, "native")
	return &mallory{sdk, guestv1.NewFileServiceClient(conn), guestv1.NewProcessServiceClient(conn), guestv1.NewForwardServiceClient(conn)}, dir
}

// secret is what mallory must not see.
const secret = "the key to everything"

// plant makes files, by their paths in dir.
func plant(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// holdsSecret returns where below a directory the secret has come to.
func holdsSecret(t *testing.T, dir string) (at []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret) {
			at = append(at, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func denied(err error) bool {
	var e *guest.Error
	return err != nil && (status.Code(err) == codes.PermissionDenied || errors.As(err, &e) && e.Code == codes.PermissionDenied)
}

const denySecret = "profile = 'full'\n[[roles.mallory.deny]]\nread = ['DIR/x/secret']\n"

// TestReadsAboveDenied: what is denied is not got by reading a directory above it.
func TestReadsAboveDenied(t *testing.T) {
	m, dir := attack(t, denySecret)
	plant(t, dir, map[string]string{"x/open": "open", "x/secret/key": secret, "x/sub/open": "open", "y/open": "open"})
	if err := os.Symlink("../x/secret", dir+"/y/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../x", dir+"/y/above"); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, tt := range map[string]struct {
		source string
		opts   guest.CopyOptions
		want   string // a file that is copied, below the copy
	}{
		"the directory":          {"x", guest.CopyOptions{}, "sub/open"},
		"its contents":           {"x/.", guest.CopyOptions{}, "open"},
		"all":                    {"", guest.CopyOptions{}, "x/open"},
		"as an archive":          {"x", guest.CopyOptions{Archive: true}, "open"},
		"links followed":         {"y", guest.CopyOptions{Follow: true}, "open"},
		"with a resume":          {"x", guest.CopyOptions{Resume: true}, "open"},
		"archive, links, resume": {"y", guest.CopyOptions{Archive: true, Follow: true, Resume: true}, "above/open"},
	} {
		t.Run(name, func(t *testing.T) {
			to := t.TempDir() + "/copy"
			r, err := m.Files().CopyFrom(ctx, []string{dir + "/" + tt.source}, to, &tt.opts)
			if _, serr := os.Stat(to); serr != nil {
				t.Fatalf("nothing was copied: %v", err)
			}
			if at := holdsSecret(t, to); len(at) > 0 {
				t.Errorf("copied %v", at)
			}
			if _, serr := os.Stat(filepath.Join(to, tt.want)); serr != nil {
				t.Errorf("the rest was not copied: %v", serr)
			}
			if err == nil && (r == nil || r.Failed == 0) {
				t.Errorf("nothing says what was left out: %+v", r)
			}
		})
	}
	for _, from := range []string{"/x", ""} {
		left := false
		for info, err := range m.Files().List(ctx, dir+from, &guest.ListOptions{Depth: 9}) {
			if err != nil {
				left = left || denied(err)
				continue
			}
			if strings.Contains(info.Path(), "secret") {
				t.Errorf("the list of %q has %s", from, info.Path())
			}
		}
		if !left {
			t.Errorf("the list of %q does not say that something was left out", from)
		}
	}
	if u, err := m.Files().DiskUsage(ctx, dir+"/x"); err != nil || u.GetApparentBytes() >= uint64(len(secret))+2*8192 && u.GetFiles() > 2 || u.GetUnreadable() != 1 {
		t.Errorf("the sum of x: %v, %v", u, err)
	}
	for _, name := range []string{"/x/secret", "/x/secret/key", "/y/link/key", "/y/above/secret/key", "/x/./sub/../secret/key"} {
		if data, err := m.Files().ReadFile(ctx, dir+name, 1<<20); !denied(err) {
			t.Errorf("read %s: %q, %v", name, data, err)
		}
		if _, err := m.Files().Stat(ctx, dir+name); !denied(err) {
			t.Errorf("stat %s: %v", name, err)
		}
	}
}

// TestWatchesAboveDenied: nor by watching one.
func TestWatchesAboveDenied(t *testing.T) {
	m, dir := attack(t, denySecret)
	plant(t, dir, map[string]string{"x/open": "open", "x/secret/key": secret, "x/other": "other"})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	st, err := m.files.Watch(ctx, &guestv1.WatchRequest{Path: []byte(dir + "/x"), Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(dir+"/x/secret/new", nil, 0o600),
		os.Rename(dir+"/x/secret/new", dir+"/x/came-out"),
		os.Rename(dir+"/x/other", dir+"/x/secret/went-in"),
		os.WriteFile(dir+"/x/last", nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	for !seen["last"] {
		r, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetEvents() {
			seen[string(e.GetPath())], seen[string(e.GetNewPath())] = true, true
			if strings.Contains(string(e.GetPath())+string(e.GetNewPath()), "secret") {
				t.Errorf("told of %v", e)
			}
		}
	}
	if !seen["came-out"] || !seen["other"] {
		t.Errorf("not told of what is beside it: %v", seen)
	}
}

// TestChangesAboveDenied: nor is it changed, moved or removed with a directory above
// it, or read by way of another name for it.
func TestChangesAboveDenied(t *testing.T) {
	m, dir := attack(t, denySecret)
	plant(t, dir, map[string]string{"x/open": "open", "x/secret/key": secret, "y/open": "open"})
	ctx, f := t.Context(), m.Files()
	for name, err := range map[string]error{
		"rename above":            f.Rename(ctx, dir+"/x", dir+"/z"),
		"rename further above":    f.Rename(ctx, dir, dir+"-moved"),
		"rename onto it":          f.Rename(ctx, dir+"/y", dir+"/x/secret"),
		"remove above":            f.RemoveAll(ctx, dir+"/x"),
		"remove above, unclean":   f.RemoveAll(ctx, dir+"/y/../x/"),
		"remove in it":            f.Remove(ctx, dir+"/x/secret/key"),
		"hard link to it":         f.Link(ctx, dir+"/x/secret/key", dir+"/y/key"),
		"symbolic link to it":     f.Symlink(ctx, dir+"/x/secret", dir+"/y/link"),
		"relative link":           f.Symlink(ctx, "../x/secret/key", dir+"/y/link"),
		"mode":                    f.Chmod(ctx, dir+"/x/secret", 0o777),
		"a directory in it":       f.MkdirAll(ctx, dir+"/x/secret/a/b", 0o777),
		"write":                   openToWrite(ctx, f, dir+"/x/secret/key"),
		"attribute":               f.SetXattr(ctx, dir+"/x/secret/key", "user.x", []byte("y")),
		"size":                    f.Truncate(ctx, dir+"/x/secret/key", 0),
		"a temporary file in it":  second(f.CreateTemp(ctx, dir+"/x/secret", "t")),
		"a temporary file beside": second(f.CreateTemp(ctx, dir+"/x", "secret/t")),
	} {
		if !denied(err) && !strings.Contains(name, "beside") || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	source := t.TempDir()
	plant(t, source, map[string]string{"x/new": "new", "x/secret/key": "planted", "x/secret/new": "planted", "x/secret/sub/new": "planted"})
	if err := os.Chmod(source+"/x/secret", 0o777); err != nil {
		t.Fatal(err)
	}
	for name, copyTo := range map[string][]string{"the directory": {source + "/x", dir}, "its contents": {source + "/x/.", dir + "/x"}, "it": {source + "/x/secret", dir + "/x"}} {
		for _, opts := range []guest.CopyOptions{{}, {Resume: true, Checksum: true}, {Archive: true}} {
			r, err := f.CopyTo(ctx, copyTo[:1], copyTo[1], &opts)
			if err == nil && (r == nil || r.Failed == 0) {
				t.Errorf("copying %s there: %+v", name, r)
			}
		}
	}
	if err := m.uploadLink(ctx, dir, "x/secret/key", "y/leaked"); err == nil {
		t.Error("an upload made a hard link to it")
	}
	if data, err := os.ReadFile(dir + "/x/secret/key"); err != nil || string(data) != secret {
		t.Errorf("it is %q, %v", data, err)
	}
	if entries, err := os.ReadDir(dir + "/x/secret"); err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
	if info, err := os.Stat(dir + "/x/secret"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if at := holdsSecret(t, dir+"/y"); len(at) > 0 {
		t.Errorf("it is at %v too", at)
	}
	if data, err := os.ReadFile(dir + "/x/new"); err != nil || string(data) != "new" {
		t.Errorf("what is not denied was not copied: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func openToWrite(ctx context.Context, f *guest.Files, name string) error {
	file, err := f.OpenFile(ctx, name, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		file.Close()
	}
	return err
}

// uploadLink uploads an entry that is a hard link to a file which is there already.
func (m *mallory) uploadLink(ctx context.Context, dir, from, to string) error {
	st, err := m.files.Upload(ctx)
	if err != nil {
		return err
	}
	for _, msg := range []*guestv1.UploadRequest{
		{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{TransferId: make([]byte, 16), Destination: []byte(dir), Names: [][]byte{nil}, Options: &guestv1.TransferOptions{Archive: true}}}},
		{Message: &guestv1.UploadRequest_Entries{Entries: &guestv1.Entries{Entries: []*guestv1.Entry{
			{Number: 1, Path: []byte(to), Mode: 0o100644, HardLink: &guestv1.Position{Path: []byte(from)}}}}}},
		{Message: &guestv1.UploadRequest_Finish{Finish: &guestv1.Finish{Entries: 1}}},
	} {
		if err := st.Send(msg); err != nil {
			break
		}
	}
	var failure error
	for {
		r, err := st.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return failure
		case err != nil:
			return err
		case r.GetFailure() != nil:
			failure = errors.New(r.GetFailure().GetMessage())
		case r.GetFinished() != nil:
			return failure
		}
	}
}

// TestGuessesDenied: an upload that is gone on with does not tell that a denied file
// has a size, a time and contents that were guessed.
func TestGuessesDenied(t *testing.T) {
	m, dir := attack(t, denySecret)
	plant(t, dir, map[string]string{"x/open": secret, "x/secret/key": secret})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	st, err := m.files.Upload(ctx)
	if err != nil {
		t.Fatal(err)
	}
	offer := &guestv1.Offer{}
	for i, name := range []string{"x/open", "x/secret/key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		offer.Entries = append(offer.Entries, &guestv1.Entry{Number: uint64(i + 1), Path: []byte(name), Mode: 0o100644, Size: uint64(info.Size()), ModifiedUnixNanos: info.ModTime().UnixNano()})
	}
	for _, msg := range []*guestv1.UploadRequest{
		{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{TransferId: make([]byte, 16), Destination: []byte(dir), Names: [][]byte{nil}, Resume: true}}},
		{Message: &guestv1.UploadRequest_Offer{Offer: offer}},
	} {
		if err := st.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	for {
		r, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if d := r.GetDecision(); d != nil {
			if w := d.GetWanted(); len(w) != 1 || w[0].GetNumber() != 2 || w[0].GetOffset() != 0 {
				t.Errorf("wanted are %v", w)
			}
			return
		}
	}
}

// TestSwappedDirectory: the directory of a rule is exchanged for a link, above and at
// its end, after the decision: what is behind the link is not read.
func TestSwappedDirectory(t *testing.T) {
	for _, swap := range []string{"open/pub", "open"} {
		t.Run(swap, func(t *testing.T) {
			m, dir := attack(t, "[[roles.mallory.allow]]\nmethods = ['FileService/*']\nread = ['DIR/home/open/pub']\n")
			plant(t, dir, map[string]string{"home/open/pub/file": "open", "vault/pub/file": secret, "vault/file": secret})
			// Whoever owns home may do this.
			if err := os.Chmod(dir+"/home", 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir+"/home/open", 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(dir+"/vault", dir+"/home/link"); err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			done := make(chan struct{})
			go func() {
				defer close(done)
				for !stop.Load() {
					_ = unix.Renameat2(unix.AT_FDCWD, dir+"/home/"+swap, unix.AT_FDCWD, dir+"/home/link", unix.RENAME_EXCHANGE)
				}
			}()
			read := 0
			for range 3000 {
				data, err := m.Files().ReadFile(t.Context(), dir+"/home/open/pub/file", 1<<10)
				if err == nil && string(data) != "open" {
					t.Errorf("read %q", data)
					break
				}
				if err == nil {
					read++
				}
			}
			stop.Store(true)
			<-done
			t.Logf("%d of 3000 read", read)
		})
	}
}

// TestLinksToSockets: a rule about the path of a socket is about no other socket that
// a link leads to, to connect or to listen.
func TestLinksToSockets(t *testing.T) {
	m, dir := attack(t, "[[roles.mallory.allow]]\nmethods = ['ForwardService/*']\ndial = ['unix:DIR/app/*', 'unix:DIR/app/*/s']\nlisten = ['unix:DIR/app/*', 'unix:DIR/app/*/new']\n")
	for _, d := range []string{"app", "vault"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	listen := func(name, greeting string) {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, greeting)
				c.Close()
			}
		}()
	}
	listen("app/own", "hello")
	listen("vault/s", secret)
	for name, target := range map[string]string{"app/link": dir + "/vault/s", "app/relative": "../vault/s", "app/dir": "../vault", "app/twice": "link"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	dial := func(path string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c, err := m.DialContext(ctx, "unix", path)
		if err != nil {
			return "", err
		}
		defer c.Close()
		data, err := io.ReadAll(c)
		return string(data), err
	}
	if text, err := dial(dir + "/app/own"); err != nil || text != "hello" {
		t.Errorf("its own socket: %q, %v", text, err)
	}
	for _, name := range []string{"/app/link", "/app/relative", "/app/twice", "/app/dir/s", "/app/../vault/s", "/vault/s"} {
		if text, err := dial(dir + name); !denied(err) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	st, err := m.forward.Listen(ctx, &guestv1.ListenRequest{Network: "unix", Address: []byte(dir + "/app/dir/new")})
	if err == nil {
		_, err = st.Recv()
	}
	cancel()
	if entries, _ := os.ReadDir(dir + "/vault"); !denied(err) || len(entries) != 1 {
		t.Errorf("listening through a link: %v, %v", err, entries)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	st, err = m.forward.Listen(ctx, &guestv1.ListenRequest{Network: "unix", Address: []byte(dir + "/app/new")})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := st.Recv(); err != nil || string(r.GetAddress()) != dir+"/app/new" {
		t.Fatalf("listening: %v, %v", r, err)
	}
	if text, err := net.Dial("unix", dir+"/app/new"); err != nil {
		t.Error(err)
	} else {
		text.Close()
	}
	cancel()
	for {
		if _, err := st.Recv(); err != nil {
			break
		}
	}
}

// TestHowAllowedProgramsRun: whoever may run one program decides about nothing that
// makes it another, or has root leave something behind.
func TestHowAllowedProgramsRun(t *testing.T) {
	user := fmt.Sprint(os.Geteuid())
	m, dir := attack(t, "[[roles.mallory.allow]]\nargs = [['sh', 'deploy.sh'], ['sh', '-c', 'ulimit -c; umask'], ['cat', 'DIR/pub/*']]\nusers = ['"+user+"']\n")
	plant(t, dir, map[string]string{"evil/deploy.sh": "echo " + secret, "pub/file": "open", "vault": secret})
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_CORE, &limit)
	run := func(change func(c *guest.Cmd), args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c := m.Command(ctx, args[0], args[1:]...)
		if change != nil {
			change(c)
		}
		out, err := c.Output()
		return string(out), err
	}
	if out, err := run(nil, "sh", "-c", "ulimit -c; umask"); err != nil || out != "0\n0022\n" && out != "0\n022\n" {
		t.Errorf("core limit and umask are %q, %v", out, err)
	}
	if out, err := run(nil, "cat", dir+"/pub/file"); err != nil || out != "open" {
		t.Errorf("what is allowed: %q, %v", out, err)
	}
	for name, tt := range map[string]struct {
		change func(c *guest.Cmd)
		args   []string
	}{
		"her own script":     {func(c *guest.Cmd) { c.Dir = dir + "/evil" }, []string{"sh", "deploy.sh"}},
		"dots":               {nil, []string{"cat", dir + "/pub/../vault"}},
		"slashes":            {nil, []string{"cat", dir + "/pub/sub/file"}},
		"a catalogue":        {func(c *guest.Cmd) { c.Env = []string{"LANGUAGE=../../" + dir} }, []string{"cat", dir + "/pub/file"}},
		"a locale":           {func(c *guest.Cmd) { c.Env = []string{"LC_ALL=../.." + dir} }, []string{"cat", dir + "/pub/file"}},
		"a time zone":        {func(c *guest.Cmd) { c.Env = []string{"TZ=:" + dir + "/evil/deploy.sh"} }, []string{"cat", dir + "/pub/file"}},
		"a library":          {func(c *guest.Cmd) { c.Env = []string{"TERM=xterm", "LD_PRELOAD=" + dir + "/x.so", "LANG=C"} }, []string{"cat", dir + "/pub/file"}},
		"a terminal's entry": {func(c *guest.Cmd) { c.Terminal = &guest.Terminal{Term: ".." + dir} }, []string{"cat", dir + "/pub/file"}},
		"a login shell":      {func(c *guest.Cmd) { c.LoginShell = true }, []string{"cat", dir + "/pub/file"}},
	} {
		if out, err := run(tt.change, tt.args...); !denied(err) || strings.Contains(out, secret) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	for name, limits := range map[string]*guestv1.ResourceLimits{
		"cores":        {Rlimits: []*guestv1.Rlimit{{Name: "core", Soft: 1 << 30, Hard: 1 << 30}}},
		"cores, upper": {Rlimits: []*guestv1.Rlimit{{Name: "CORE", Soft: 1 << 30, Hard: 1 << 30}}},
		"small files":  {Rlimits: []*guestv1.Rlimit{{Name: "fsize"}}},
		"umask":        {Umask: new(uint32)},
		"nice":         {Nice: new(int32)},
		"memory":       {MemoryBytes: new(uint64)},
		"capabilities": {DropCapabilities: []string{"CAP_SETUID"}},
		"privileges":   {NoNewPrivileges: true},
	} {
		_, err := m.process.Start(t.Context(), &guestv1.StartRequest{SessionId: []byte("0123456789abcdef"), Spec: &guestv1.SessionSpec{
			Args: [][]byte{[]byte("cat"), []byte(dir + "/pub/file")}, Limits: limits}})
		if !denied(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAddressesThatLookAlike: no name, and no other spelling, stands for an address
// that a rule allows, nor gets around one that it denies.
func TestAddressesThatLookAlike(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	allowed, _ := attack(t, "[[roles.mallory.allow]]\nmethods = ['ForwardService/Dial']\ndial = ['tcp:10.0.0.*:80', 'tcp:*.example.com:443']\n")
	denying, _ := attack(t, "profile = 'full'\n[[roles.mallory.deny]]\ndial = ['tcp:127.0.0.1:"+port+"']\n")
	tests := map[*mallory][]string{
		allowed: {"10.0.0.1.evil.example:80", "10.0.0.evil.example:80", "10.0.0.x:80", "10.0.1:80", "167772161:80", "0xa.0.0.1:80", "012.0.0.1:80",
			"a.b.example.com:443", "evil.example/a.example.com:443", "a.example.com:https"},
		denying: {"127.0.0.1:" + port, "127.1:" + port, "2130706433:" + port, "0x7f000001:" + port, "0177.0.0.1:" + port, "[::ffff:127.0.0.1]:" + port,
			"0.0.0.0:" + port, "[::]:" + port, ":" + port, "localhost:" + port, "LOCALHOST.:" + port, "127.0.0.1:0" + port},
	}
	for m, addresses := range tests {
		for _, address := range addresses {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c, err := m.DialContext(ctx, "tcp", address)
			cancel()
			if err == nil {
				c.Close()
			}
			if !denied(err) {
				t.Errorf("%s: %v", address, err)
			}
		}
	}
}
