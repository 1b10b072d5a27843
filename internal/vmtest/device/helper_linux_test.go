package device

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/vsockrpc/vsockrpc/transport"
)

// envHelper makes this test binary serve ports, inside of a guest.
const envHelper = "DEVICE_HELPER"

const helperReady = "serving\n"

// Ports of the helper in the guest.
const (
	portEcho   = 2000 + iota // sends back what comes, then its end
	portFirst                // ends its own direction first, then says how much came
	portSource               // sends as much as it is told, and closes
	portSink                 // says how much came, at its end
	portPeer                 // says who calls
	portHold                 // reads nothing until one byte comes, then all
	portPipe                 // runs dd as the benchmark's exec does, and passes its output on
	portRelay                // connects to port 3000 of the host and passes everything on
	lastPort
)

// portHost is where the relay connects to.
const portHost = 3000

func TestMain(m *testing.M) {
	if os.Getenv(envHelper) == "" {
		os.Exit(m.Run())
	}
	for port := uint32(portEcho); port < lastPort; port++ {
		l, err := transport.Listen(context.Background(), transport.VsockAddr(transport.CIDAny, port), nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			for {
				c, err := l.AcceptConn()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					serve(port, c)
				}()
			}
		}()
	}
	fmt.Print(helperReady)
	select {}
}

// serve serves one connection. What goes wrong shows at the other end.
func serve(port uint32, c *transport.Conn) {
	switch port {
	case portEcho:
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	case portFirst:
		_, _ = io.WriteString(c, "first")
		_ = c.CloseWrite()
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintln(os.Stderr, n)
	case portSource:
		var n uint64
		if binary.Read(c, binary.BigEndian, &n) == nil {
			_, _ = io.Copy(c, pattern(int64(n)))
		}
	case portSink:
		n, _ := io.Copy(io.Discard, c)
		_ = binary.Write(c, binary.BigEndian, n)
	case portPeer:
		cid, err := transport.LocalCID()
		fmt.Fprintf(c, "%d %d %d %v", cid, c.Peer().CID, c.Peer().Port, err)
	case portHold:
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = io.Copy(io.Discard, c)
	case portPipe:
		cmd := exec.Command("/bin/dd", ddArgs...)
		out, err := cmd.StdoutPipe()
		if err != nil || cmd.Start() != nil {
			return
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{out}, make([]byte, 64<<10))
		_ = cmd.Wait()
	case portRelay:
		d, err := transport.Dial(context.Background(), transport.VsockAddr(transport.CIDHost, portHost), nil)
		if err != nil {
			return
		}
		defer d.Close()
		go func() {
			_, _ = io.Copy(d, c)
			_ = d.CloseWrite()
		}()
		_, _ = io.Copy(c, d)
		_ = c.CloseWrite()
	}
}

// pattern returns n bytes that repeat after a number that is no power of 2.
func pattern(n int64) io.Reader { return io.LimitReader(new(patternReader), n) }

type patternReader struct{ at int }

var patternBytes = func() []byte {
	var b bytes.Buffer
	for i := range 10007 {
		b.WriteByte(byte(i * i >> 3))
	}
	return b.Bytes()
}()

func (p *patternReader) Read(b []byte) (n int, err error) {
	for n < len(b) {
		m := copy(b[n:], patternBytes[p.at:])
		n += m
		p.at = (p.at + m) % len(patternBytes)
	}
	return n, nil
}
