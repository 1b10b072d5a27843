package rpctest

import (
	"bytes"
	"encoding/binary"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vsockrpc/vsockrpc/rpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A rule is a sentence of PROTOCOL.md with a must. server and client break it, or show
// that that side keeps it; elsewhere is the test of package rpc that does so.
type rule struct {
	phrase    string // part of the sentence, and of no other
	server    func(*testing.T)
	client    func(*testing.T)
	elsewhere string
}

// long is a head that is longer than a head may be.
var long = append(head(item(200, strings.Repeat("x", 62<<10))), 0)

func rules() []rule {
	badKey, badValue := head(item(3, "\x01K\x01v")), head(item(3, "\x01k\x01\n"))
	piece := func(typ byte, stream uint32) []byte {
		return fr(typ, fHEAD|fMSG|fMORE, stream, head(item(10, "\x05"), 1, 2)...)
	}
	return []rule{
		{phrase: "must not wait for the server's preface", client: clientSpeaksFirst},
		{phrase: "must not send anything before it has the client's 16 bytes", server: serverWaitsForMagic},
		{phrase: "must end the connection if the handshake does not agree", elsewhere: "TestALPNIsInsistedOn"},
		{phrase: "must answer with a preface of a version that it does", server: serverSaysTooOld},
		{phrase: "must not take the connection for usable", client: clientOfAnotherVersion},
		{phrase: "must not use a type below 0x80", server: toServer(cPROTOCOL, fr(0x40, 0, 1)), client: toClient(cPROTOCOL, fr(0x40, 0, 1))},
		{phrase: "must skip a frame of a type from 0x80 on", server: serverGoesOn(fr(0x80, 0xff, 77, 1, 2, 3), fr(0xff, 0, 0)), client: clientGoesOn(fr(0x80, 0xff, 77, 1, 2, 3), fr(0xff, 0, 0))},
		{phrase: "must not be longer than 62 KiB",
			server: both(toServer(cPROTOCOL, fr(tOPEN, fHEAD, 1, long...)), toServer(cPROTOCOL, fr(tOPEN, fHEAD, 1, 2, 1, 9))),
			client: both(toClient(cPROTOCOL, fr(tEND, fHEAD, 1, long...)), toClient(cPROTOCOL, fr(tEND, fHEAD, 1, 2, 5, 9)))},
		{phrase: "must be one uvarint and nothing after it",
			server: toServer(cPROTOCOL, open(1, 0, "W", item(2, "\x05\x05")...)), client: toClient(cPROTOCOL, fr(tEND, fHEAD, 1, head(item(5, "\x05\x05"))...))},
		{phrase: "Keys must be of", server: toServer(cPROTOCOL, fr(tOPEN, fHEAD, 1, badKey...)), client: toClient(cPROTOCOL, fr(tHEADER, fHEAD, 1, badKey...))},
		{phrase: "values must be printable ASCII", server: toServer(cPROTOCOL, fr(tOPEN, fHEAD, 1, badValue...)), client: toClient(cPROTOCOL, fr(tEND, fHEAD, 1, badValue...))},
		{phrase: "must not send more than the client has said it takes", client: answerWithTooMuch},
		{phrase: "must have a greater id than all before", server: toServer(cPROTOCOL, open(5, 0, "W"), open(4, 0, "W"))},
		{phrase: "must not send more than one HEADER", client: both(toClient(cPROTOCOL, fr(tHEADER, 0, 1), fr(tHEADER, 0, 1)), headerAfterMessage)},
		{phrase: "DATA from a server must not have CLOSE", client: toClient(cPROTOCOL, fr(tDATA, fMSG|fCLOSE, 1))},
		{phrase: "must not send DATA after CLOSE", server: toServer(cPROTOCOL, open(1, fCLOSE, "W"), fr(tDATA, fMSG, 1))},
		{phrase: "The first piece must have its",
			server: both(toServer(cPROTOCOL, open(1, 0, "W"), fr(tDATA, fMSG|fMORE, 1, 1)), toServer(cPROTOCOL, open(1, 0, "W"), fr(tDATA, fHEAD|fMSG|fMORE, 1, head(item(10, "\x01"), 1)...))),
			client: toClient(cPROTOCOL, fr(tDATA, fMSG|fMORE, 1, 1))},
		{phrase: "The pieces must add up to it",
			server: both(toServer(cPROTOCOL, open(1, 0, "W"), piece(tDATA, 1), fr(tDATA, fMSG, 1, 3)), toServer(cPROTOCOL, open(1, 0, "W"), piece(tDATA, 1), fr(tDATA, fMSG|fMORE, 1))),
			client: both(toClient(cPROTOCOL, piece(tDATA, 1), fr(tDATA, fMSG, 1, 3)), toClient(cPROTOCOL, piece(tDATA, 1), fr(tDATA, fMSG, 1, 3, 4, 5, 6)))},
		{phrase: "must not put a message into such an END", client: toClient(cPROTOCOL, piece(tDATA, 1), fr(tEND, fMSG, 1))},
		{phrase: "must not send CLOSE within a message", server: toServer(cPROTOCOL, open(1, 0, "W"), piece(tDATA, 1), fr(tDATA, fCLOSE, 1))},
		{phrase: "It must ignore DATA",
			server: serverGoesOn(open(1, fCLOSE, "Nope"), fr(tDATA, fMSG, 1, 1), fr(tCREDIT, 0, 1, u32(5)...), fr(tRESET, 0, 1, u32(6)...)),
			client: clientIgnores},
		{phrase: "must not send a frame for a stream that never was", server: toServer(cPROTOCOL, fr(tRESET, 0, 7, u32(6)...)), client: toClient(cPROTOCOL, fr(tRESET, 0, 7, u32(6)...))},
		{phrase: "must wait with more calls until others have ended", client: clientKeepsTheLimit},
		{phrase: "A name must not be longer than 1,024 bytes", server: toServer(cPROTOCOL, open(1, 0, strings.Repeat("x", 1020))), client: clientRefusesLongNames},
		{phrase: "When the time is up it must end the stream", server: serverEndsTheStream},
		{phrase: "A number in HELLO must not be beyond its range",
			server: both(helloToServer(cFLOW, item(5, "\x01")), helloToServer(cFLOW, item(6, "\x01")), helloToServer(cPROTOCOL, item(5, "\xff\xff\xff\xff\x0f"))),
			client: both(helloToClient(cFLOW, item(5, "\x01")), helloToClient(cFLOW, item(6, "\x01")), helloToClient(cPROTOCOL, item(7, "\xff\xff\xff\xff\x0f")))},
		{phrase: "must not use a number that was not defined", server: both(toServer(cPROTOCOL, numbered(3, fr(tOPEN, 0, 1))), toServer(cPROTOCOL, numbered(1025, open(1, 0, "W"))))},
		{phrase: "must not send a frame that costs more than its stream has left", server: both(overStream, overConnection), client: both(overStreamOfClient, overConnectionOfClient)},
		{phrase: "It must not be of 0 bytes",
			server: both(toServer(cFLOW, fr(tCREDIT, 0, 0, u32(0)...)), toServer(cFLOW, open(1, fCLOSE, "Nope"), fr(tCREDIT, 0, 1, u32(0)...)), toServer(cFLOW, fr(tCREDIT, 0, 0, u32(1<<31-1)...))),
			client: both(toClient(cFLOW, fr(tCREDIT, 0, 1, u32(0)...)), toClient(cFLOW, fr(tCREDIT, 0, 1, u32(1<<31-1)...)))},
		{phrase: "must send it by then", elsewhere: "TestFlow"},
		{phrase: "must give credit on a stream for the pieces", elsewhere: "TestFineCuts"},
		{phrase: "must not stop reading because an application does not consume", elsewhere: "TestStalledReader"},
		{phrase: "must not stop reading because it cannot write", elsewhere: "TestClientReadsWhileItCannotWrite"},
		{phrase: "must answer a PING without ACK", server: serverGoesOn(), client: clientGoesOn()},
		{phrase: "must not give a stream above it to a handler", elsewhere: "TestConnectionAge"},
		{phrase: "must not have a higher one", client: toClient(cPROTOCOL, fr(tGOAWAY, 0, 0, append(u32(1), u32(0)...)...), fr(tGOAWAY, 0, 0, append(u32(2), u32(0)...)...))},
		{phrase: "must wait before it connects again", elsewhere: "TestFaultyServersAreLeftAlone"},
		{phrase: "A side must not send more.", server: flood(true), client: flood(false)},
		{phrase: "a sender must not send any that is not", elsewhere: "TestOnlyUTF8"},
	}
}

func TestMusts(t *testing.T) {
	for _, r := range rules() {
		if r.server != nil {
			t.Run("server: "+r.phrase, r.server)
		}
		if r.client != nil {
			t.Run("client: "+r.phrase, r.client)
		}
	}
}

// TestEveryMustIsBroken: each sentence of PROTOCOL.md with a must has a rule, and the
// other way round.
func TestEveryMustIsBroken(t *testing.T) {
	doc, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(doc), "")
	text = strings.Replace(text, "The words must, must not", "The words", 1)
	text = strings.Replace(text, "breaks each *must* once", "", 1)
	all := rules()
	uses := make([]int, len(all))
	must := regexp.MustCompile(`\bmust\b`)
	for _, sentence := range sentences(text) {
		n := 0
		for i, r := range all {
			if strings.Contains(sentence, r.phrase) {
				uses[i]++
				n++
			}
		}
		if k := len(must.FindAllString(sentence, -1)); k > 0 && n == 0 {
			t.Errorf("no rule for %q", sentence)
		}
	}
	tests := testsOf(t, "../../rpc/*_test.go", "../../rpc/internal/*/*_test.go")
	for i, r := range all {
		if uses[i] != 1 {
			t.Errorf("%d sentences with %q, want one", uses[i], r.phrase)
		}
		if r.elsewhere != "" && !tests[r.elsewhere] {
			t.Errorf("%q: package rpc and those below it have no %s", r.phrase, r.elsewhere)
		}
		if r.elsewhere == "" && r.server == nil && r.client == nil {
			t.Errorf("%q is not broken", r.phrase)
		}
	}
}

// sentences splits a text at full stops, colons and semicolons, but not within code.
func sentences(text string) (all []string) {
	code := regexp.MustCompile("`[^`\n]*`")
	end := regexp.MustCompile(`[.:;](\s|$)|\n`)
	masked := code.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("x", len(s)) })
	at := 0
	for _, m := range end.FindAllStringIndex(masked, -1) {
		all = append(all, text[at:m[1]])
		at = m[1]
	}
	return append(all, text[at:])
}

// testsOf returns the names of the tests in the files of some patterns.
func testsOf(t *testing.T, patterns ...string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	var all []string
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%d files of %s, %v", len(files), pattern, err)
		}
		all = append(all, files...)
	}
	for _, name := range all {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

func both(all ...func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		for _, f := range all {
			f(t)
		}
	}
}

// serverGoesOn sends frames to a server, which goes on.
func serverGoesOn(frames ...[]byte) func(*testing.T) {
	return func(t *testing.T) {
		p := rawClient(t, nil)
		p.hello()
		p.greeted()
		p.send(frames...)
		p.wantAlive()
	}
}

// clientGoesOn sends frames to a client, which goes on.
func clientGoesOn(frames ...[]byte) func(*testing.T) {
	return func(t *testing.T) {
		p := begun(t, nil)
		p.send(frames...)
		p.wantAlive()
		p.send(fr(tEND, fMSG, 1))
		p.wantStatus(codes.OK)
	}
}

func clientSpeaksFirst(t *testing.T) {
	p := newRawServer(t, nil)
	p.invoke()
	p.accept()
	p.want(tOPEN)
}

func serverWaitsForMagic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rpc.NewServer(nil)
		defer s.Stop()
		a, b := net.Pipe()
		go s.ServeConn(b)
		p := &rawPeer{t, a}
		read := make(chan int, 1)
		go func() { n, _ := a.Read(make([]byte, 100)); read <- n }()
		p.send([]byte(magic[:15]))
		synctest.Wait()
		select {
		case n := <-read:
			t.Errorf("%d bytes before the whole magic", n)
		default:
		}
		p.send([]byte(magic[15:]))
		if n := <-read; n == 0 {
			t.Error("no preface after the magic")
		}
		a.Close()
	})
}

func serverSaysTooOld(t *testing.T) {
	p := rawClient(t, nil)
	p.send([]byte("VSOCKRPC/2\r\n\r\n\x00\xff and whatever that has next"))
	want := examples(t)["too-old"]
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		k, err := p.nc.Read(got[n:])
		if n += k; err != nil {
			t.Fatalf("%x, %v", got[:n], err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the server sent\n%x, want\n%x", got, want)
	}
	p.wantEOF()
}

func clientOfAnotherVersion(t *testing.T) {
	p := newRawServer(t, nil)
	p.invoke()
	p.accept()
	p.try([]byte("VSOCKRPC/2\r\n\r\n\x00\xff"))
	p.wantEOF()
	p.wantStatus(codes.FailedPrecondition)
}

func answerWithTooMuch(t *testing.T) {
	pair := append(append([]byte{1, 'k'}, binary.AppendUvarint(nil, 2000)...), strings.Repeat("v", 2000)...)
	md := item(3, string(pair))
	for _, f := range [][]byte{fr(tHEADER, fHEAD, 1, head(md)...), fr(tEND, fHEAD|fMSG, 1, head(md)...)} {
		p := begun(t, &rpc.ClientConfig{MaxHeaderBytes: 1000})
		p.send(f)
		p.wantStatus(codes.ResourceExhausted)
	}
}

func headerAfterMessage(t *testing.T) { toClient(cPROTOCOL, fr(tDATA, fMSG, 1), fr(tHEADER, 0, 1))(t) }

func clientIgnores(t *testing.T) {
	p := begun(t, nil)
	p.send(fr(tEND, fMSG, 1))
	p.wantStatus(codes.OK)
	p.send(fr(tDATA, fMSG, 1, 1), fr(tHEADER, 0, 1), fr(tEND, 0, 1), fr(tCREDIT, 0, 1, u32(5)...), fr(tRESET, 0, 1, u32(6)...))
	p.wantAlive()
}

func clientKeepsTheLimit(t *testing.T) {
	p := newRawServer(t, nil)
	p.invoke()
	p.accept()
	p.want(tOPEN)
	p.hello(item(7, "\x01")...)
	p.wantAlive()
	p.invoke()
	p.invoke()
	for id := uint32(1); id <= 3; id++ {
		p.wantAlive() // an OPEN would come before the answer
		p.send(fr(tEND, fMSG, id))
		p.wantStatus(codes.OK)
		if id < 3 {
			if f := p.want(tOPEN); f.stream != id+1 {
				t.Errorf("OPEN of stream %d after END of %d", f.stream, id)
			}
		}
	}
}

func clientRefusesLongNames(t *testing.T) {
	p := newRawServer(t, nil)
	p.invoke() // so that there is a connection
	p.accept()
	err := p.client.Invoke(t.Context(), "/"+strings.Repeat("x", 1024), wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func serverEndsTheStream(t *testing.T) {
	p := rawClient(t, nil)
	p.hello()
	p.greeted()
	p.send(open(5, 0, "W", item(2, string(binary.AppendUvarint(nil, 10e6)))...)) // 10 ms
	for {
		f, raw, err := readFrame(p.nc)
		if err != nil {
			t.Fatal(err)
		}
		if f.typ == tRESET {
			if want := examples(t)["deadline"]; !bytes.Equal(raw, want) {
				t.Errorf("the server sent %x, want %x", raw, want)
			}
			return
		}
	}
}

func helloToServer(code uint32, items []byte) func(*testing.T) {
	return func(t *testing.T) {
		p := rawClient(t, nil)
		p.hello(items...)
		p.greeted()
		p.wantGoAway(code)
	}
}

func helloToClient(code uint32, items []byte) func(*testing.T) {
	return func(t *testing.T) {
		p := newRawServer(t, nil)
		p.invoke()
		p.accept()
		p.hello(items...)
		p.wantGoAway(code)
		p.wantStatus(codes.Internal)
	}
}

// numbered sets the method number of a frame.
func numbered(n uint16, f []byte) []byte {
	binary.BigEndian.PutUint16(f[6:], n)
	return f
}

// message is DATA that costs 64 KiB of credit.
func message(stream uint32) []byte { return fr(tDATA, fMSG, stream, make([]byte, 64<<10-64)...) }

func overStream(t *testing.T) {
	p := rawClient(t, &rpc.ServerConfig{StreamWindow: 256 << 10})
	p.hello()
	p.greeted()
	p.send(open(1, 0, "W"), message(1), message(1), message(1), message(1))
	p.wantAlive()
	p.try(message(1))
	p.wantGoAway(cFLOW)
}

func overConnection(t *testing.T) {
	p := rawClient(t, &rpc.ServerConfig{StreamWindow: 256 << 10, ConnWindow: 1 << 20})
	p.hello()
	p.greeted()
	for id := uint32(1); id <= 4; id++ {
		p.send(open(id, 0, "W"), message(id), message(id), message(id), message(id))
	}
	p.wantAlive()
	p.send(open(5, 0, "W"))
	p.try(message(5))
	p.wantGoAway(cFLOW)
}

// streams begins n calls of a client that do not read.
func (p *rawServer) streams(n int) {
	p.t.Helper()
	for i := range n {
		p.stream(false)
		if i == 0 {
			p.accept()
			p.hello()
		}
		p.want(tOPEN)
	}
}

func overStreamOfClient(t *testing.T) {
	p := newRawServer(t, &rpc.ClientConfig{StreamWindow: 256 << 10})
	p.streams(1)
	p.send(message(1), message(1), message(1), message(1))
	p.wantAlive()
	p.try(message(1))
	p.wantGoAway(cFLOW)
}

func overConnectionOfClient(t *testing.T) {
	p := newRawServer(t, &rpc.ClientConfig{StreamWindow: 256 << 10, ConnWindow: 1 << 20})
	p.streams(5)
	for id := uint32(1); id <= 4; id++ {
		p.send(message(id), message(id), message(id), message(id))
	}
	p.wantAlive()
	p.try(message(5))
	p.wantGoAway(cFLOW)
}

// flood sends too many frames that bring nothing forward, with messages in between.
func flood(server bool) func(*testing.T) {
	return func(t *testing.T) {
		var p *rawPeer
		if server {
			p = rawClient(t, nil)
			p.hello()
			p.greeted()
		} else {
			s := begun(t, nil)
			p = &s.rawPeer
		}
		go func() {
			b := bytes.Repeat(fr(0x80, 0, 0), 100)
			for range 200 {
				if _, err := p.nc.Write(b); err != nil {
					return
				}
			}
		}()
		p.wantGoAway(cFLOOD)
	}
}
