package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the programs of forward_peers_linux_test.go do, done by servers and clients
// in Go: these tests run where none of those is installed.

// TestPeerGoHTTP serves files over HTTP to clients that come by the SDK, and to
// others that come by a forwarded port.
func TestPeerGoHTTP(t *testing.T) {
	dir := t.TempDir()
	page := []byte(strings.Repeat("a page\n", 100_000))
	if err := os.WriteFile(filepath.Join(dir, "page"), page, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go server.Serve(l)
	defer server.Close()
	agent := tempAgent(t)
	h := startHostCtl(t, "port-forward", agent, ":"+port(l.Addr()))
	g := dialTest(t, agent)
	for name, tt := range map[string]struct {
		addr      string
		transport *http.Transport
	}{
		"DialContext":  {l.Addr().String(), &http.Transport{DialContext: g.DialContext}},
		"port-forward": {h.forward(), &http.Transport{}},
	} {
		t.Run(name, func(t *testing.T) {
			client := &http.Client{Transport: tt.transport, Timeout: time.Minute}
			defer client.CloseIdleConnections()
			get := func(bytesRange string) error {
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+tt.addr+"/page", nil)
				if err != nil {
					return err
				}
				want, status := page, http.StatusOK
				if bytesRange != "" {
					req.Header.Set("Range", "bytes="+bytesRange)
					want, status = page[1000:2000], http.StatusPartialContent
				}
				resp, err := client.Do(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err == nil && (!bytes.Equal(got, want) || resp.StatusCode != status) {
					err = fmt.Errorf("%s: %d bytes, %s", bytesRange, len(got), resp.Status)
				}
				return err
			}
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for _, r := range []string{"", "1000-1999", "", "1000-1999"} {
						if err := get(r); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestPeerGoRedis speaks redis's protocol through a forwarded port: commands
// that are sent long before their answers are read, and a large value.
func TestPeerGoRedis(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveRESP(c)
		}
	}()
	h := startHostCtl(t, "port-forward", tempAgent(t), ":"+port(l.Addr()))
	conn, err := net.Dial("tcp", h.forward())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	const commands = 10_000
	value := strings.Repeat("v", 3<<20)
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(conn)
		writeRESP(w, "SET", "big", value)
		for i := range commands {
			writeRESP(w, "SET", fmt.Sprint("key", i), fmt.Sprint("value", i))
		}
		writeRESP(w, "GET", "big")
		writeRESP(w, "GET", "key9999")
		sent <- w.Flush()
	}()
	r := bufio.NewReader(conn)
	for i := range commands + 1 {
		if line, err := r.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("answer %d: %q, %v", i, line, err)
		}
	}
	for _, want := range []string{value, "value9999"} {
		if got, err := readBulk(r); err != nil || got != want {
			t.Errorf("GET: %d bytes, %v", len(got), err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// serveRESP serves SET and GET in redis's protocol (RESP).
func serveRESP(c net.Conn) {
	defer c.Close()
	values := make(map[string]string)
	r, w := bufio.NewReader(c), bufio.NewWriter(c)
	for {
		line, err := r.ReadString('\n')
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "*")))
		if err != nil || n < 2 {
			return
		}
		words := make([]string, n)
		for i := range words {
			if words[i], err = readBulk(r); err != nil {
				return
			}
		}
		if n == 3 {
			values[words[1]] = words[2]
			w.WriteString("+OK\r\n")
		} else {
			v := values[words[1]]
			fmt.Fprintf(w, "$%d\r\n%s\r\n", len(v), v)
		}
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

func writeRESP(w *bufio.Writer, words ...string) {
	fmt.Fprintf(w, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(w, "$%d\r\n%s\r\n", len(word), word)
	}
}

func readBulk(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "$")))
	if err != nil || n < 0 || n > 16<<20 {
		return "", fmt.Errorf("a length of %q", line)
	}
	b := make([]byte, n+2)
	_, err = io.ReadFull(r, b)
	return string(b[:n]), err
}

// TestPeerGoThroughput fills several forwarded connections in both directions at
// once, as iperf -P 4 --bidir does, and compares what arrives.
func TestPeerGoThroughput(t *testing.T) {
	const size, conns = 4 << 20, 4
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{3}).Read(data)
	want := sha256.Sum256(data)
	exchange := func(c net.Conn) error {
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(data)
			sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
		}()
		h := sha256.New()
		n, err := io.Copy(h, c)
		if err == nil && (n != size || [32]byte(h.Sum(nil)) != want) {
			err = fmt.Errorf("%d bytes, or another hash", n)
		}
		return errors.Join(err, <-sent)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ends := make(chan error, 2*conns)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { ends <- exchange(c) }()
		}
	}()
	h := startHostCtl(t, "port-forward", tempAgent(t), ":"+port(l.Addr()))
	addr := h.forward()
	for range conns {
		go func() {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				err = exchange(c)
			}
			ends <- err
		}()
	}
	for range 2 * conns {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
}
