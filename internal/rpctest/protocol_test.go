package rpctest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// examples returns the hex blocks of PROTOCOL.md by name. A line ends with its
// comment, two spaces or more after the bytes.
func examples(t *testing.T) map[string][]byte {
	t.Helper()
	doc, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, block := range strings.Split(string(doc), "```hex ")[1:] {
		block, _, ok := strings.Cut(block, "```")
		name, lines, ok2 := strings.Cut(block, "\n")
		if !ok || !ok2 {
			t.Fatalf("a hex block does not end: %.40q", block)
		}
		for line := range strings.Lines(lines) {
			text, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
			b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
			if err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			all[name] = append(all[name], b...)
		}
	}
	return all
}

// A frame as PROTOCOL.md has it, read by code that shares nothing with package rpc.
type frame struct {
	typ, flags byte
	method     uint16
	stream     uint32
	payload    []byte
}

func readFrame(r io.Reader) (f frame, raw []byte, err error) {
	raw = make([]byte, 12)
	if _, err := io.ReadFull(r, raw); err != nil {
		return f, nil, err
	}
	f = frame{raw[4], raw[5], binary.BigEndian.Uint16(raw[6:]), binary.BigEndian.Uint32(raw[8:]), make([]byte, binary.BigEndian.Uint32(raw))}
	_, err = io.ReadFull(r, f.payload)
	return f, append(raw, f.payload...), err
}

// readPreface reads magic and HELLO and returns the items.
func readPreface(t *testing.T, r io.Reader) map[byte]string {
	t.Helper()
	magic := make([]byte, 16)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "VSOCKRPC/1\r\n\r\n\x00\xff" {
		t.Fatalf("magic %q, %v", magic, err)
	}
	f, _, err := readFrame(r)
	if err != nil || f.typ != 1 || f.flags != 0 || f.stream != 0 {
		t.Fatalf("HELLO %+v, %v", f, err)
	}
	return items(t, f.payload)
}

func items(t *testing.T, b []byte) map[byte]string {
	t.Helper()
	m := map[byte]string{}
	for len(b) > 0 {
		n, w := binary.Uvarint(b[1:])
		if w <= 0 || n > uint64(len(b)-1-w) {
			t.Fatalf("items end within one: %x", b)
		}
		m[b[0]] = string(b[1+w : 1+w+int(n)])
		b = b[1+w+int(n):]
	}
	return m
}

// desc is the service of the examples: /a.B/C answers "x" with "y" and anything
// else with NOT_FOUND, /a.B/D is a stream that passes on what it receives.
func desc(got chan<- string, md chan<- metadata.MD) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "a.B", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "C", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in wrapperspb.BytesValue
			if err := dec(&in); err != nil {
				return nil, err
			}
			m, _ := metadata.FromIncomingContext(ctx)
			if d, ok := ctx.Deadline(); ok && time.Until(d) <= time.Second {
				m = metadata.Join(m, metadata.Pairs("deadline", "1s"))
			}
			md <- m
			if string(in.Value) == "x" {
				return wrapperspb.Bytes([]byte("y")), nil
			}
			return nil, status.Error(codes.NotFound, "no")
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "D", ClientStreams: true, ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			var in raw
			if err := st.RecvMsg(&in); err != nil {
				return err
			}
			got <- string(in)
			<-st.Context().Done()
			got <- st.Context().Err().Error()
			return nil
		}}},
	}
}

// raw is a message of any bytes.
type raw []byte

func (r raw) MarshalBytes(head []byte) (_, payload []byte, err error) { return head, r, nil }

func (r *raw) UnmarshalBytes(data mem.Buffer) error {
	*r = append((*r)[:0], data.ReadOnlyData()...)
	return nil
}

func TestExamplesToServer(t *testing.T) {
	ex := examples(t)
	got, md := make(chan string, 1), make(chan metadata.MD, 1)
	s := rpc.NewServer(nil)
	s.RegisterService(desc(got, md), nil)
	defer s.Stop()
	a, b := net.Pipe()
	go s.ServeConn(b)
	send := func(p ...byte) {
		t.Helper()
		if _, err := a.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	want := func(example []byte) {
		t.Helper()
		if _, raw, err := readFrame(a); err != nil || !bytes.Equal(raw, example) {
			t.Errorf("the server sent\n%x, %v, want\n%x", raw, err, example)
		}
	}
	send(ex["preface"]...)
	hello := readPreface(t, a)
	if n, _ := binary.Uvarint([]byte(hello[7])); n != rpc.DefaultMaxConcurrentStreams {
		t.Errorf("HELLO says %d streams", n)
	}
	send(ex["open"]...)
	m := <-md
	if m.Get("k")[0] != "v" || m.Get("deadline")[0] != "1s" {
		t.Errorf("metadata %v", m)
	}
	first := bytes.Clone(ex["end"])
	first[11] = 1 // the example is the answer of stream 2
	want(first)
	send(ex["open-again"]...)
	<-md
	want(ex["end"])
	other := bytes.Clone(ex["open-again"])
	other[11] = 3
	other[14] = 'z'
	send(other...)
	<-md
	want(ex["end-error"])

	// Stream 4: OPEN with method 2, "/a.B/D", and nothing else, then the pieces.
	send(0, 0, 0, 9, 2, 1, 0, 2, 0, 0, 0, 4, 8, 1, 6, '/', 'a', '.', 'B', '/', 'D')
	send(ex["pieces"]...)
	if g := <-got; g != "abcdef" {
		t.Errorf("the handler received %q", g)
	}
	control := bytes.NewReader(ex["control"])
	_, credit, _ := readFrame(control)
	_, ping, _ := readFrame(control)
	_, pong, _ := readFrame(control)
	_, reset, _ := readFrame(control)
	_, goAway, _ := readFrame(control)
	if control.Len() != 0 || len(goAway) != 24 {
		t.Fatalf("control: %d bytes too many, GOAWAY %x", control.Len(), goAway)
	}
	send(credit...)
	send(ping...)
	want(pong)
	send(reset...)
	if g := <-got; g != context.Canceled.Error() {
		t.Errorf("the handler's context ended with %q", g)
	}
	send(goAway...)
	send(ping...)
	want(pong)
}

func TestExamplesFromClient(t *testing.T) {
	ex := examples(t)
	a, b := net.Pipe()
	c := rpc.NewClient(func(context.Context) (net.Conn, error) { return a, nil }, &rpc.ClientConfig{
		Hello: rpc.HelloInfo{Software: "demo/1."}, Authority: "guest",
	})
	defer c.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		call := func(ctx context.Context, want codes.Code) {
			var out wrapperspb.BytesValue
			err := c.Invoke(ctx, "/a.B/C", wrapperspb.Bytes([]byte("x")), &out)
			if status.Code(err) != want || want == codes.OK && string(out.Value) != "y" {
				t.Errorf("got %q, %v, want %v", out.Value, err, want)
			}
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "k", "v"), time.Second*20)
		defer cancel()
		call(ctx, codes.OK)
		call(context.Background(), codes.OK)
		call(context.Background(), codes.NotFound)
	})
	hello := readPreface(t, b)
	if hello[2] != "demo/1." || hello[9] != "guest" {
		t.Errorf("HELLO %q", hello)
	}
	f, _, err := readFrame(b)
	example, _, _ := readFrame(bytes.NewReader(ex["open"]))
	if err != nil || f.typ != example.typ || f.flags != example.flags || f.method != example.method || f.stream != example.stream {
		t.Fatalf("OPEN %+v, %v, want %+v", f, err, example)
	}
	n, w := binary.Uvarint(f.payload)
	got, wantItems := items(t, f.payload[w:w+int(n)]), items(t, example.payload[1:22])
	if ns, _ := binary.Uvarint([]byte(got[2])); ns == 0 || ns > 20e9 {
		t.Errorf("timeout %d", ns)
	}
	delete(got, 2)
	delete(wantItems, 2)
	if len(got) != 2 || got[1] != wantItems[1] || got[3] != wantItems[3] || string(f.payload[w+int(n):]) != "\x0a\x01x" {
		t.Errorf("OPEN says %q %q, want %q", got, f.payload[w+int(n):], wantItems)
	}
	send := func(p []byte) {
		t.Helper()
		if _, err := b.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	end := bytes.Clone(ex["end"])
	end[11] = 1
	send(append(bytes.Clone(ex["preface"]), end...))
	if _, raw, err := readFrame(b); err != nil || !bytes.Equal(raw, ex["open-again"]) {
		t.Fatalf("the client sent\n%x, %v, want\n%x", raw, err, ex["open-again"])
	}
	send(ex["end"])
	if _, _, err := readFrame(b); err != nil {
		t.Fatal(err)
	}
	send(ex["end-error"])
}
