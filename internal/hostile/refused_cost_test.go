//go:build linux

package hostile

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/file"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// costRole is a role whose rules look at all that a request can have.
const costRole = `[roles.greedy]

[[roles.greedy.allow]]
args = [["ls", "..."], ["*x*y*z"]]
users = ["nobody"]

[[roles.greedy.allow]]
methods = ["FileService/*"]
read = ["/srv/a", "/var/b"]
write = ["/srv/c"]

[[roles.greedy.allow]]
dial = ["tcp:10.0.0.1:80", "unix:/run/*"]

[[roles.greedy.deny]]
read = ["/etc/x"]

[[roles.greedy.deny]]
args = [["rm", "..."]]
`

// leaf is a field of a message that can be large: where it is, and whether it is a
// list.
type leaf struct {
	path []protoreflect.FieldDescriptor
	name string
}

// leaves returns the fields of a message, and of those in it, that hold text or are
// lists.
func leaves(m protoreflect.MessageDescriptor, path []protoreflect.FieldDescriptor) (all []leaf) {
	if len(path) > 5 {
		return nil
	}
	for i := range m.Fields().Len() {
		fd := m.Fields().Get(i)
		here := append(slices.Clone(path), fd)
		text := fd.Kind() == protoreflect.BytesKind || fd.Kind() == protoreflect.StringKind
		if text || fd.IsList() || fd.IsMap() {
			var names []string
			for _, p := range here {
				names = append(names, string(p.Name()))
			}
			all = append(all, leaf{here, strings.Join(names, ".")})
		}
		if fd.Message() != nil && !fd.IsList() && !fd.IsMap() {
			all = append(all, leaves(fd.Message(), here)...)
		}
	}
	return all
}

// enlarge sets a field to about n bytes on the wire, other ones each time: a text of
// components, or a list of short elements.
func (l leaf) enlarge(m protoreflect.Message, n int, number uint64) {
	for _, fd := range l.path[:len(l.path)-1] {
		m = m.Mutable(fd).Message()
	}
	fd := l.path[len(l.path)-1]
	unique := fmt.Sprintf("/%d", number)
	word := func(n int) protoreflect.Value {
		text := unique + strings.Repeat("/a", (n+1)/2)
		if fd.Kind() == protoreflect.BytesKind {
			return protoreflect.ValueOfBytes([]byte(text))
		}
		return protoreflect.ValueOfString(text)
	}
	switch {
	case fd.IsMap():
	case fd.IsList() && fd.Message() != nil:
		list := m.Mutable(fd).List()
		for range n / 8 {
			e := list.NewElement()
			for _, inner := range leaves(fd.Message(), nil) {
				if len(inner.path) == 1 && !inner.path[0].IsList() {
					inner.enlarge(e.Message(), 2, number)
					break
				}
			}
			list.Append(e)
		}
	case fd.IsList():
		list := m.Mutable(fd).List()
		if fd.Kind() != protoreflect.BytesKind && fd.Kind() != protoreflect.StringKind {
			for range n / 4 {
				list.Append(list.NewElement())
			}
			return
		}
		// Each another one: what is looked up once is known then.
		for i := range n / 8 {
			text := fmt.Sprintf("/%x/%x", number, i)
			if fd.Kind() == protoreflect.BytesKind {
				list.Append(protoreflect.ValueOfBytes([]byte(text)))
			} else {
				list.Append(protoreflect.ValueOfString(text))
			}
		}
	default:
		m.Set(fd, word(n))
	}
}

// ask makes a call with one request, takes one answer at most, and returns how the
// call has ended.
func ask(ctx context.Context, cc grpc.ClientConnInterface, method string, req proto.Message) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := descriptor(method)
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: d.IsStreamingClient(), ServerStreams: d.IsStreamingServer()}, method)
	if err != nil {
		return err
	}
	if err := st.SendMsg(req); err != nil && err != io.EOF {
		return err
	}
	_ = st.CloseSend()
	return st.RecvMsg(newMessage(d.Output()))
}

// TestLargestRequests: whatever field of whatever method's request is as large as can
// be, for a caller whom rules refuse and for one who may call: the time and the
// memory that it takes grow with the request as reading it does, and nothing of it
// is kept.
func TestLargestRequests(t *testing.T) {
	log, err := audit.New(audit.Config{Writer: io.Discard, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]string{"by rules": costRole, "with a profile": "[roles.greedy]\nprofile = 'ops'\n"}
	for name, role := range roles {
		t.Run(name, func(t *testing.T) {
			f := newFortressWith(t, role, &agent.Config{Audit: log, File: &file.Config{Root: t.TempDir()}})
			cc := f.withKey(t, greedyKey)
			defer cc.Close()
			requests := Requests(Empty, 1)
			each := func(try func(method string, l leaf)) {
				for _, method := range slices.Sorted(maps.Keys(requests)) {
					for _, l := range leaves(requests[method].ProtoReflect().Descriptor(), nil) {
						try(method, l)
					}
				}
			}
			// What any first call makes is there before.
			each(func(method string, l leaf) {
				req := newMessage(descriptor(method).Input())
				l.enlarge(req.ProtoReflect(), 64, 0)
				_ = ask(t.Context(), cc, method, req)
			})
			before := settledHeap()
			each(func(method string, l leaf) { largest(t, cc, method, l) })
			if after := settledHeap(); after > before+512<<10 {
				t.Errorf("%d KiB are kept", (after-before)>>10)
			}
		})
	}
}

// largest sends a request with a field of different sizes.
func largest(t *testing.T, cc grpc.ClientConnInterface, method string, l leaf) {
	const small, large = 16 << 10, 64 << 10
	// What is kept of a text may be kept once for each.
	times, number := 12, uint64(0)
	if l.path[len(l.path)-1].IsList() {
		times = 3
	}
	send := func(n int) (took time.Duration, allocated uint64) {
		req := newMessage(descriptor(method).Input())
		number++
		l.enlarge(req.ProtoReflect(), n, number)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		start := time.Now()
		err := ask(ctx, cc, method, req)
		took = time.Since(start)
		runtime.ReadMemStats(&b)
		if status.Code(err) == codes.DeadlineExceeded {
			t.Errorf("%s, %s of %d bytes: %v", method, l.name, n, err)
		}
		if err != nil && len(err.Error()) > 12<<10 {
			t.Errorf("%s, %s of %d bytes: an error of %d", method, l.name, n, len(err.Error()))
		}
		return took, b.TotalAlloc - a.TotalAlloc
	}
	quick, slow := time.Hour, time.Hour
	most := uint64(0)
	for range 2 {
		took, _ := send(small)
		quick = min(quick, took)
	}
	for range times {
		took, allocated := send(large)
		slow, most = min(slow, took), max(most, allocated)
	}
	// Four times as much takes four times as long, and some. Where others keep the
	// machine busy, one of many tries is not disturbed.
	for range 50 {
		if slow <= 8*quick+100*time.Millisecond {
			break
		}
		took, _ := send(large)
		slow = min(slow, took)
	}
	if slow > 8*quick+100*time.Millisecond {
		t.Errorf("%s, %s: %v for %d KiB, %v for %d", method, l.name, quick, small>>10, slow, large>>10)
	}
	// A path of nine bytes is looked up with some hundred times as many.
	if most > 256*large {
		t.Errorf("%s, %s: a request of %d KiB takes %d MiB", method, l.name, large>>10, most>>20)
	}
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	m, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return m.New().Interface()
}

// settledHeap returns what the heap holds once nothing is garbage.
func settledHeap() uint64 {
	least := uint64(1 << 62)
	for range 20 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapAlloc >= least {
			break
		}
		least = m.HeapAlloc
		time.Sleep(50 * time.Millisecond)
	}
	return least
}

// TestDeepPaths: a path of as many directories as there can be, which all exist, costs
// as much for each as one of few. Longer ones are refused before they are looked at.
func TestDeepPaths(t *testing.T) {
	const few, many = 500, 2000 // of the 2048 that PATH_MAX has room for
	f := newFortressWith(t, "[roles.greedy]\n[[roles.greedy.allow]]\nmethods = ['FileService/*']\nread = ['/none']\n", &agent.Config{})
	cc := f.withKey(t, greedyKey)
	defer cc.Close()
	dir, err := os.MkdirTemp("/tmp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at, err := os.OpenRoot(dir)
	for range many {
		if err == nil {
			err = at.Mkdir("a", 0o755)
		}
		var next *os.Root
		if err == nil {
			next, err = at.OpenRoot("a")
		}
		if err != nil {
			t.Fatal(err)
		}
		at.Close()
		at = next
	}
	at.Close()
	took := func(depth int) time.Duration {
		least := time.Hour
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			start := time.Now()
			_, err := guestv1.NewFileServiceClient(cc).Stat(ctx, &guestv1.StatRequest{Path: []byte(dir + strings.Repeat("/a", depth))})
			least = min(least, time.Since(start))
			cancel()
			if status.Code(err) != codes.PermissionDenied {
				t.Fatal(err)
			}
		}
		return least
	}
	quick, slow := took(few), took(many)
	// Four times as many take four times as long; if each is looked up again for those
	// beneath it, sixteen times.
	if slow > 8*quick+20*time.Millisecond {
		t.Errorf("%v for %d directories, %v for %d", quick, few, slow, many)
	}
}
