package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// fakeFiles are the files of an agent whose answers a test scripts.
type fakeFiles struct {
	guestv1.UnimplementedFileServiceServer

	stat     *guestv1.StatResponse
	link     *guestv1.ReadLinkResponse
	hash     *guestv1.HashResponse
	list     func(grpc.ServerStreamingServer[guestv1.ListResponse]) error
	read     func(grpc.ServerStreamingServer[guestv1.ReadResponse]) error
	watch    func(grpc.ServerStreamingServer[guestv1.WatchResponse]) error
	open     func(guestv1.FileService_OpenServer) error
	download func(guestv1.FileService_DownloadServer) error
	upload   func(guestv1.FileService_UploadServer) error
}

func (f *fakeFiles) Stat(context.Context, *guestv1.StatRequest) (*guestv1.StatResponse, error) {
	return f.stat, nil
}

func (f *fakeFiles) ReadLink(context.Context, *guestv1.ReadLinkRequest) (*guestv1.ReadLinkResponse, error) {
	return f.link, nil
}

func (f *fakeFiles) Hash(context.Context, *guestv1.HashRequest) (*guestv1.HashResponse, error) {
	return f.hash, nil
}

func (f *fakeFiles) List(_ *guestv1.ListRequest, st grpc.ServerStreamingServer[guestv1.ListResponse]) error {
	return f.list(st)
}

func (f *fakeFiles) Read(_ *guestv1.ReadRequest, st grpc.ServerStreamingServer[guestv1.ReadResponse]) error {
	return f.read(st)
}

func (f *fakeFiles) Watch(_ *guestv1.WatchRequest, st grpc.ServerStreamingServer[guestv1.WatchResponse]) error {
	return f.watch(st)
}

func (f *fakeFiles) Open(st guestv1.FileService_OpenServer) error {
	if _, err := st.Recv(); err != nil {
		return err
	}
	return f.open(st)
}

func (f *fakeFiles) Download(st guestv1.FileService_DownloadServer) error {
	if _, err := st.Recv(); err != nil {
		return err
	}
	return f.download(st)
}

func (f *fakeFiles) Upload(st guestv1.FileService_UploadServer) error {
	if _, err := st.Recv(); err != nil {
		return err
	}
	return f.upload(st)
}

// hostileFiles returns the files of a guest with such an agent.
func hostileFiles(t *testing.T, f *fakeFiles) *Files {
	t.Helper()
	agent := newFakeAgent(t, func(r grpc.ServiceRegistrar) {
		guestv1.RegisterAgentServiceServer(r, &fakeAgent{info: &guestv1.InfoResponse{Version: "v1.2.3", ProtocolVersion: 1, AgentId: "run-1", Access: &guestv1.Access{Trusted: true}}})
		guestv1.RegisterFileServiceServer(r, f)
	})
	cfg := agent.config()
	cfg.Reconnect = time.Second
	g, err := Dial(wait.Context(t), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g.Files()
}

// garbage returns a message that is none, as it is on the wire.
func garbage[M any, P interface {
	*M
	proto.Message
}]() P {
	m := P(new(M))
	m.ProtoReflect().SetUnknown([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 'x'}) // field 1, of 4 GiB
	return m
}

// wantReason fails the test if err is not an error for a reason, of any if it is
// empty.
func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || reason != "" && e.Reason != reason || e.Guest != "fake" || e.Message() == "" {
		t.Errorf("got %v (%#v), want reason %q", err, e, reason)
	}
}

// What a terminal must not get, as a text and as a name that is not even one.
const (
	evilText = "a\x1b]52;c;ZXZpbA==\a\u202e\u2066txt.\r"
	evilName = evilText + "\xff"
)

// TestHostileList has an agent list files in every wrong way.
func TestHostileList(t *testing.T) {
	defer func(n int) { maxListed = n }(maxListed)
	maxListed = 10_000
	endless := func(m *guestv1.ListResponse) func(grpc.ServerStreamingServer[guestv1.ListResponse]) error {
		return func(st grpc.ServerStreamingServer[guestv1.ListResponse]) error {
			for st.Send(m) == nil {
			}
			return nil
		}
	}
	once := func(m *guestv1.ListResponse) func(grpc.ServerStreamingServer[guestv1.ListResponse]) error {
		return func(st grpc.ServerStreamingServer[guestv1.ListResponse]) error { return st.Send(m) }
	}
	tests := map[string]struct {
		list   func(grpc.ServerStreamingServer[guestv1.ListResponse]) error
		reason string
	}{
		"files without end":    {endless(&guestv1.ListResponse{Files: []*guestv1.FileInfo{{Path: []byte("x")}}}), ReasonProtocol},
		"failures without end": {endless(&guestv1.ListResponse{Failures: []*guestv1.FileFailure{{Message: evilText}}}), ReasonProtocol},
		"nothing without end":  {endless(&guestv1.ListResponse{}), ReasonProtocol},
		"garbage":              {once(garbage[guestv1.ListResponse]()), ""},
		"an evil error": {func(grpc.ServerStreamingServer[guestv1.ListResponse]) error {
			return status.Error(codes.NotFound, evilText)
		}, ""},
	}
	for _, name := range []string{"..", "../x", "/x", "/", "a/../b", "x/..", "./x", "a//b", "a/", "a\x00b", "d/deeper", strings.Repeat("a/", 1000) + "x"} {
		tests["the name "+name[:min(20, len(name))]] = struct {
			list   func(grpc.ServerStreamingServer[guestv1.ListResponse]) error
			reason string
		}{once(&guestv1.ListResponse{Files: []*guestv1.FileInfo{{Path: []byte(name)}}}), ReasonProtocol}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			files := hostileFiles(t, &fakeFiles{list: tt.list})
			var last error
			n := 0
			for _, err := range files.List(wait.Context(t), "/d", nil) {
				last = err
				n++
			}
			wantReason(t, last, tt.reason)
			if n > 2*maxListed {
				t.Errorf("%d entries", n)
			}
			if _, err := fs.ReadDir(files.FS(wait.Context(t), "/d"), "."); err == nil {
				t.Error("ReadDir has no error")
			}
		})
	}
	t.Run("sizes, modes and names that lie", func(t *testing.T) {
		m := &guestv1.FileInfo{Path: []byte(evilName), Size: math.MaxUint64, Mode: math.MaxUint32, ModifiedUnixNanos: math.MinInt64, LinkTarget: []byte(evilName)}
		files := hostileFiles(t, &fakeFiles{list: once(&guestv1.ListResponse{Files: []*guestv1.FileInfo{m}})})
		for info, err := range files.List(wait.Context(t), "/d", nil) {
			if err != nil || info.Name() != evilName || info.Size() < 0 || info.IsDir() {
				t.Errorf("%v, %v", info, err)
			}
		}
		entries, err := fs.ReadDir(files.FS(wait.Context(t), "/d"), ".")
		if err != nil || len(entries) != 0 { // the name is not UTF-8
			t.Errorf("%v, %v", entries, err)
		}
	})
}

// TestHostileRead has an agent send what was not asked for.
func TestHostileRead(t *testing.T) {
	type stream = grpc.ServerStreamingServer[guestv1.ReadResponse]
	info := func(st stream) error {
		return st.Send(&guestv1.ReadResponse{Message: &guestv1.ReadResponse_File{File: &guestv1.FileInfo{Size: math.MaxUint64}}})
	}
	piece := func(st stream, offset uint64, data []byte) error {
		return st.Send(&guestv1.ReadResponse{Message: &guestv1.ReadResponse_Piece{Piece: &guestv1.Piece{Offset: offset, Data: data}}})
	}
	for name, tt := range map[string]struct {
		read   func(st stream) error
		reason string
	}{
		"bytes without end": {func(st stream) error {
			err := info(st)
			for offset := uint64(0); err == nil; offset += 64 << 10 {
				err = piece(st, offset, make([]byte, 64<<10))
			}
			return nil
		}, "too-many-bytes"},
		"data before all else": {func(st stream) error { return piece(st, 0, []byte("x")) }, ReasonProtocol},
		"nothing":              {func(st stream) error { return nil }, ReasonProtocol},
		"described twice":      {func(st stream) error { return errors.Join(info(st), info(st)) }, ReasonProtocol},
		"a gap":                {func(st stream) error { return errors.Join(info(st), piece(st, 5, []byte("x"))) }, ReasonProtocol},
		"a repeat": {func(st stream) error {
			return errors.Join(info(st), piece(st, 0, []byte("xy")), piece(st, 1, []byte("y")))
		}, ReasonProtocol},
		"the end of numbers":    {func(st stream) error { return errors.Join(info(st), piece(st, math.MaxUint64, []byte("x"))) }, ReasonProtocol},
		"garbage":               {func(st stream) error { return st.Send(garbage[guestv1.ReadResponse]()) }, ""},
		"garbage in the middle": {func(st stream) error { return errors.Join(info(st), st.Send(garbage[guestv1.ReadResponse]())) }, ""},
		"no bytes without end": {func(st stream) error {
			for err := info(st); err == nil; err = piece(st, 0, nil) {
			}
			return nil
		}, ReasonProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := hostileFiles(t, &fakeFiles{read: tt.read}).ReadFile(wait.Context(t), "/f", 1<<20)
			wantReason(t, err, tt.reason)
			if len(data) > 0 {
				t.Errorf("%d bytes", len(data))
			}
		})
	}
	t.Run("more than the range", func(t *testing.T) {
		var got bytes.Buffer
		f := hostileFiles(t, &fakeFiles{read: func(st stream) error { return errors.Join(info(st), piece(st, 10, make([]byte, 11))) }})
		wantReason(t, f.CopyRange(wait.Context(t), &got, "/f", 10, 10), ReasonProtocol)
		if got.Len() > 10 {
			t.Errorf("%d bytes", got.Len())
		}
	})
}

// TestHostileOpen has an agent answer what is done with an open file wrongly.
func TestHostileOpen(t *testing.T) {
	type stream = guestv1.FileService_OpenServer
	opened := func(st stream) error {
		return st.Send(&guestv1.OpenResponse{Message: &guestv1.OpenResponse_Opened{Opened: &guestv1.FileInfo{}}})
	}
	result := func(st stream, m *guestv1.OperationResult) error {
		return st.Send(&guestv1.OpenResponse{Message: &guestv1.OpenResponse_Result{Result: m}})
	}
	data := func(st stream, offset uint64, n int) error {
		return st.Send(&guestv1.OpenResponse{Message: &guestv1.OpenResponse_Data{Data: &guestv1.Piece{Offset: offset, Data: make([]byte, n)}}})
	}
	answer := func(f func(st stream) error) func(stream) error {
		return func(st stream) error {
			if err := opened(st); err != nil {
				return err
			}
			for {
				if _, err := st.Recv(); err != nil {
					return nil
				}
				if err := f(st); err != nil {
					return err
				}
			}
		}
	}
	read := func(f *RemoteFile) error { _, err := f.ReadAt(make([]byte, 100), 7); return err }
	write := func(f *RemoteFile) error { _, err := f.WriteAt(make([]byte, 100), 7); return err }
	stat := func(f *RemoteFile) error { _, err := f.Stat(); return err }
	for name, tt := range map[string]struct {
		open   func(stream) error
		use    func(*RemoteFile) error
		reason string
	}{
		"no opening":              {func(st stream) error { return result(st, &guestv1.OperationResult{}) }, nil, ReasonProtocol},
		"nothing":                 {func(st stream) error { return nil }, nil, ReasonProtocol},
		"garbage":                 {func(st stream) error { return st.Send(garbage[guestv1.OpenResponse]()) }, nil, ""},
		"more than was asked for": {answer(func(st stream) error { return data(st, 7, 101) }), read, ReasonProtocol},
		"another offset":          {answer(func(st stream) error { return data(st, 8, 100) }), read, ReasonProtocol},
		"a result for a read":     {answer(func(st stream) error { return result(st, &guestv1.OperationResult{Written: 100}) }), read, ReasonProtocol},
		"data for a write":        {answer(func(st stream) error { return data(st, 7, 100) }), write, ReasonProtocol},
		"more written than sent":  {answer(func(st stream) error { return result(st, &guestv1.OperationResult{Written: math.MaxUint64}) }), write, ReasonProtocol},
		"data for a stat":         {answer(func(st stream) error { return data(st, 0, 1) }), stat, ReasonProtocol},
		"opened again":            {answer(opened), stat, ReasonProtocol},
		"garbage for a stat":      {answer(func(st stream) error { return st.Send(garbage[guestv1.OpenResponse]()) }), stat, ""},
		"the end":                 {answer(func(st stream) error { return io.EOF }), stat, ""},
		"a failure": {answer(func(st stream) error {
			return result(st, &guestv1.OperationResult{Failure: &guestv1.FileFailure{Code: 999, Reason: evilText, Message: evilText, Errno: math.MaxUint32}})
		}), write, evilText},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := hostileFiles(t, &fakeFiles{open: tt.open}).OpenFile(wait.Context(t), "/f", os.O_RDWR, 0)
			if err == nil && tt.use != nil {
				err = tt.use(f)
				f.cancel()
			}
			wantReason(t, err, tt.reason)
		})
	}
}

// TestHostileFacts has an agent answer the small calls with nonsense.
func TestHostileFacts(t *testing.T) {
	ctx := wait.Context(t)
	f := &fakeFiles{stat: &guestv1.StatResponse{}, link: &guestv1.ReadLinkResponse{Target: []byte(evilName)}, hash: &guestv1.HashResponse{Sha256: []byte("short"), Length: math.MaxUint64}}
	files := hostileFiles(t, f)
	if info, err := files.Stat(ctx, "/a/name"); err != nil || info.Name() != "name" || info.IsDir() {
		t.Errorf("no file: %v, %v", info, err)
	}
	f.stat = &guestv1.StatResponse{File: &guestv1.FileInfo{Path: []byte("../../etc/passwd"), Size: math.MaxUint64, Mode: math.MaxUint32}}
	if info, err := files.Lstat(ctx, "/a/name"); err != nil || info.Name() != "name" || info.Size() < 0 {
		t.Errorf("a name of its own: %v, %v", info.Name(), err)
	}
	if target, err := files.ReadLink(ctx, "/a"); err != nil || target != evilName {
		t.Errorf("ReadLink: %q, %v", target, err)
	}
	_, _, err := files.Hash(ctx, "/a", 0, 0)
	wantReason(t, err, ReasonProtocol)
	f.stat, f.link = garbage[guestv1.StatResponse](), garbage[guestv1.ReadLinkResponse]()
	_, err = files.Stat(ctx, "/a")
	wantReason(t, err, "")
	_, err = files.ReadLink(ctx, "/a")
	wantReason(t, err, "")
}

// TestHostileWatch has an agent tell of events that there are none.
func TestHostileWatch(t *testing.T) {
	type stream = grpc.ServerStreamingServer[guestv1.WatchResponse]
	for name, tt := range map[string]struct {
		watch  func(stream) error
		reason string
		events int
	}{
		"nothing": {func(stream) error { return nil }, ReasonProtocol, 0},
		"an end":  {func(st stream) error { return st.Send(&guestv1.WatchResponse{}) }, ReasonProtocol, 1},
		"garbage": {func(st stream) error { return st.Send(garbage[guestv1.WatchResponse]()) }, "", 0},
		"an unknown kind": {func(st stream) error {
			return st.Send(&guestv1.WatchResponse{Events: []*guestv1.FileEvent{{Kind: 77, Path: []byte(evilName)}}})
		}, ReasonProtocol, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var last error
			n := 0
			for _, err := range hostileFiles(t, &fakeFiles{watch: tt.watch}).Watch(wait.Context(t), "/d", nil) {
				if last = err; err == nil {
					n++
				}
			}
			wantReason(t, last, tt.reason)
			if n != tt.events {
				t.Errorf("%d events, want %d", n, tt.events)
			}
		})
	}
	t.Run("events without end", func(t *testing.T) {
		f := hostileFiles(t, &fakeFiles{watch: func(st stream) error {
			for st.Send(&guestv1.WatchResponse{Events: []*guestv1.FileEvent{{Path: []byte("x")}}}) == nil {
			}
			return nil
		}})
		n := 0
		for range f.Watch(wait.Context(t), "/d", nil) {
			if n++; n == 10_000 { // as long as the caller wants
				break
			}
		}
	})
}

// TestHostileDownload has an agent send a tree that a host must not have. What
// single messages can do, TestHostileSender of internal/archive shows.
func TestHostileDownload(t *testing.T) {
	type stream = guestv1.FileService_DownloadServer
	entry := func(number uint64, path, text string) *guestv1.Entry {
		sum := sha256.Sum256([]byte(text))
		return &guestv1.Entry{Number: number, Path: []byte(path), Mode: 0o100644, Size: uint64(len(text)), Contents: []byte(text), Sha256: sum[:]}
	}
	entries := func(st stream, e ...*guestv1.Entry) error {
		return st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Entries{Entries: &guestv1.Entries{Entries: e}}})
	}
	finish := func(st stream) error {
		err := st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Finish{Finish: &guestv1.Finish{}}})
		for err == nil {
			_, err = st.Recv()
		}
		return nil
	}
	link := &guestv1.Entry{Number: 1, Path: []byte("l"), Mode: 0o120777, LinkTarget: []byte("../outside")}
	lying := entry(1, "a", "text")
	lying.Sha256 = make([]byte, 32)
	for name, tt := range map[string]struct {
		download func(stream) error
		reason   string // of the end; empty: single files failed
	}{
		"above": {func(st stream) error {
			return errors.Join(entries(st, entry(1, "../outside/secret", "evil")), finish(st))
		}, ""},
		"absolute":       {func(st stream) error { return errors.Join(entries(st, entry(1, "/outside", "evil")), finish(st)) }, ""},
		"a link out":     {func(st stream) error { return errors.Join(entries(st, link), finish(st)) }, ""},
		"through a link": {func(st stream) error { return errors.Join(entries(st, link, entry(2, "l/secret", "evil")), finish(st)) }, ReasonProtocol},
		"another hash":   {func(st stream) error { return errors.Join(entries(st, lying), finish(st)) }, ""},
		"out of order": {func(st stream) error {
			return errors.Join(entries(st, entry(2, "b", ""), entry(1, "c", "")), finish(st))
		}, ReasonProtocol},
		"garbage": {func(st stream) error { return errors.Join(st.Send(garbage[guestv1.DownloadResponse]()), finish(st)) }, "any"},
		"files without end": {func(st stream) error {
			for i := uint64(1); ; i++ {
				if err := entries(st, entry(i, "f"+strings.Repeat("f", int(i%200)+1)+string(rune('a'+i%26)), "")); err != nil {
					return nil
				}
			}
		}, ReasonProtocol},
		"messages without end": {func(st stream) error {
			for st.Send(&guestv1.DownloadResponse{}) == nil {
			}
			return nil
		}, "too-many-entries"},
		"bytes without end": {func(st stream) error {
			e := &guestv1.Entry{Number: 1, Path: []byte("f"), Mode: 0o100644, SizeUnknown: true}
			err := st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_File{File: &guestv1.FileStart{Entry: e}}})
			for offset := uint64(0); err == nil; offset += 64 << 10 {
				err = st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Piece{Piece: &guestv1.Piece{Offset: offset, Data: make([]byte, 64<<10)}}})
			}
			return nil
		}, "too-many-bytes"},
		"holes without end": {func(st stream) error {
			e := &guestv1.Entry{Number: 1, Path: []byte("f"), Mode: 0o100644, Size: 1 << 60}
			err := st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_File{File: &guestv1.FileStart{Entry: e}}})
			for offset := uint64(0); err == nil; offset += 1 << 20 {
				err = st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Piece{Piece: &guestv1.Piece{Offset: offset, Hole: 1 << 20}}})
			}
			return nil
		}, "too-many-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			dst, outside := filepath.Join(dir, "dst"), filepath.Join(dir, "outside")
			if err := errors.Join(os.Mkdir(dst, 0o755), os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600)); err != nil {
				t.Fatal(err)
			}
			files := hostileFiles(t, &fakeFiles{download: tt.download})
			_, err := files.CopyFrom(wait.Context(t), []string{"/src/."}, dst, &CopyOptions{MaxEntries: 2000, MaxBytes: 1 << 20, Sync: SyncNone})
			failures, some := errors.AsType[*CopyError](err)
			switch {
			case err == nil:
				t.Error("it went well")
			case tt.reason == "":
				if !some || failures.Failed == 0 {
					t.Errorf("got %v, want that a file failed", err)
				}
			case some:
				t.Errorf("got %v, want the end of it", err)
			case tt.reason != "any" && !strings.Contains(reasonOf(err), tt.reason):
				t.Errorf("got %v (%s), want %s", err, reasonOf(err), tt.reason)
			}
			if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "secret" {
				t.Errorf("outside is %q, %v", data, err)
			}
			if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 2 {
				t.Errorf("beside the destination: %q", names)
			}
			if names, _ := filepath.Glob(filepath.Join(dst, ".vsockrpc-*")); len(names) > 0 {
				t.Errorf("left over: %q", names)
			}
		})
	}
}

// TestHostileUpload has an agent that receives wrongly: the sender ends, and says
// why.
func TestHostileUpload(t *testing.T) {
	type stream = guestv1.FileService_UploadServer
	ready := &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Ready{Ready: &guestv1.Ready{Window: math.MaxUint64}}}
	endless := func(m *guestv1.UploadResponse) func(stream) error {
		return func(st stream) error {
			for err := st.Send(ready); err == nil; err = st.Send(m) {
			}
			return nil
		}
	}
	once := func(m *guestv1.UploadResponse) func(stream) error {
		return func(st stream) error {
			if err := errors.Join(st.Send(ready), st.Send(m)); err != nil {
				return err
			}
			for {
				if _, err := st.Recv(); err != nil {
					return nil
				}
			}
		}
	}
	ack := func(bytes, entries uint64) *guestv1.UploadResponse {
		return &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Acknowledge{Acknowledge: &guestv1.Acknowledge{Bytes: bytes, Entries: entries}}}
	}
	failure := &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Failure{Failure: &guestv1.FileFailure{Entry: 1, Message: "no"}}}
	decision := &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Decision{Decision: &guestv1.Decision{Wanted: []*guestv1.Wanted{{Number: 9}}}}}
	for name, upload := range map[string]func(stream) error{
		"more bytes than were sent":   once(ack(math.MaxUint64, 0)),
		"more entries than were sent": once(ack(0, math.MaxUint64)),
		"decisions on nothing":        endless(decision),
		"failures without end":        endless(failure),
		"nothing without end":         endless(&guestv1.UploadResponse{}),
		"ready without end":           endless(ready),
		"acknowledged without end":    endless(ack(0, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			src := filepath.Join(t.TempDir(), "src")
			if err := os.WriteFile(src, make([]byte, 300<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := hostileFiles(t, &fakeFiles{upload: upload}).CopyTo(wait.Context(t), []string{src}, "/dst", nil)
			wantReason(t, err, ReasonProtocol)
		})
	}
	t.Run("finished before the end", func(t *testing.T) {
		src := filepath.Join(t.TempDir(), "src")
		if err := os.WriteFile(src, make([]byte, 64<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		f := hostileFiles(t, &fakeFiles{upload: func(st stream) error {
			return st.Send(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Finished{Finished: &guestv1.Finished{Files: 1}}})
		}})
		_, err := f.CopyTo(wait.Context(t), []string{src}, "/dst", nil)
		wantReason(t, err, ReasonProtocol)
	})
}

// reasonOf returns the stable word of an error, of the guest or of this machine's
// files.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	if f, ok := errors.AsType[*archive.Failure](err); ok {
		return f.Reason
	}
	return ""
}
