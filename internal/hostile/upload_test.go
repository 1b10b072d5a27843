//go:build linux

package hostile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestUploadHoldsLittle: files and nested directories that wait for their names hold
// neither their contents nor their attributes in the agent, whether or not those
// were asked for.
func TestUploadHoldsLittle(t *testing.T) {
	const n, size = 160, 256 << 10
	for _, archive := range []bool{false, true} {
		t.Run(fmt.Sprintf("archive %v", archive), func(t *testing.T) {
			g := embedded(t, &agent.Config{}, guest.WireNative)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			before := settledHeap()
			st, err := guestv1.NewFileServiceClient(g.Conn()).Upload(ctx)
			if err != nil {
				t.Fatal(err)
			}
			send := func(m *guestv1.UploadRequest) {
				t.Helper()
				if err := st.Send(m); err != nil {
					_, why := st.Recv()
					t.Fatal(err, why)
				}
			}
			send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{
				TransferId: make([]byte, 16), Destination: []byte(t.TempDir()), Names: [][]byte{[]byte("tree")},
				Options: &guestv1.TransferOptions{Archive: archive},
			}}})
			if m, err := st.Recv(); err != nil || m.GetReady() == nil {
				t.Fatal(m, err)
			}
			number := uint64(0)
			entry := func(path string, mode uint32) {
				number++
				sum := sha256.Sum256(nil)
				e := &guestv1.Entry{Number: number, Path: []byte(path), Mode: mode, Sha256: sum[:],
					Xattrs: []*guestv1.TransferXattr{{Name: []byte("user.x"), Value: bytes.Repeat([]byte{byte(number)}, size)}}}
				send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Entries{Entries: &guestv1.Entries{Entries: []*guestv1.Entry{e}}}})
			}
			path := ""
			entry(path, 0o040700)
			for range n / 2 {
				path = guestJoin(path, "d")
				entry(path, 0o040700)
			}
			for i := range n / 2 {
				entry(guestJoin(path, fmt.Sprint(i)), 0o100600)
			}
			// What was not taken in yet is bounded by the windows.
			if held := settledHeap(); held > before+8<<20 {
				t.Errorf("%d MiB are held", (held-before)>>20)
			}
			send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Finish{Finish: &guestv1.Finish{}}})
			for {
				m, err := st.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if m.GetFinished() != nil {
					break
				}
			}
		})
	}
}

func guestJoin(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
