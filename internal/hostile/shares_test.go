//go:build linux

package hostile

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// TestOneKeyTakesNoMoreThanItsShare: one key takes all it can get of one thing. Root
// of the host, and another key that may do everything, come in meanwhile, get some
// of it too, and revoke the key.
func TestOneKeyTakesNoMoreThanItsShare(t *testing.T) {
	dir := t.TempDir()
	n := 0
	unique := func() []byte {
		n++
		id := make([]byte, 16)
		binary.BigEndian.PutUint64(id, uint64(n))
		return id
	}
	// opened waits until a stream has begun, or failed to.
	opened := func(st grpc.ClientStream, err error, m any) error {
		if err == nil {
			err = st.RecvMsg(m)
		}
		return err
	}
	type taking struct {
		profile string
		most    int // of the thing
		perConn int // taken on one connection
		take    func(context.Context, grpc.ClientConnInterface) error
	}
	for name, tt := range map[string]taking{
		"connections": {"info", 1024, 1, func(ctx context.Context, cc grpc.ClientConnInterface) error {
			_, err := guestv1.NewAgentServiceClient(cc).Info(ctx, &guestv1.InfoRequest{})
			return err
		}},
		"file calls": {"ops", 64, 100, func(ctx context.Context, cc grpc.ClientConnInterface) error {
			st, err := guestv1.NewFileServiceClient(cc).Watch(ctx, &guestv1.WatchRequest{Path: []byte(dir)})
			return opened(st, err, new(guestv1.WatchResponse))
		}},
		"sessions": {"ops", 64, 100, func(ctx context.Context, cc grpc.ClientConnInterface) error {
			spec := &guestv1.SessionSpec{Args: [][]byte{[]byte("sleep"), []byte("1000")}}
			_, err := guestv1.NewProcessServiceClient(cc).Start(ctx, &guestv1.StartRequest{SessionId: unique(), Spec: spec})
			return err
		}},
		"listeners": {"ops", 4096, 4000, func(ctx context.Context, cc grpc.ClientConnInterface) error {
			n++
			req := &guestv1.ListenRequest{Network: "unix", Address: []byte(filepath.Join(dir, strconv.Itoa(n))), Backlog: 1}
			st, err := guestv1.NewForwardServiceClient(cc).Listen(ctx, req)
			return opened(st, err, new(guestv1.ListenResponse))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFortress(t, tt.profile, &agent.Config{File: &file.Config{MaxCalls: 64}, Process: &process.Config{MaxSessions: 64}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			// Until it gets no more for a moment.
			taken := 0
			var greedy *rpc.Client
			for ; taken < tt.most; taken++ {
				if taken%tt.perConn == 0 {
					greedy = f.withKey(t, greedyKey)
					t.Cleanup(func() { greedy.Close() })
				}
				call, done := context.WithCancel(ctx)
				timer := time.AfterFunc(time.Second, done)
				err := tt.take(call, greedy)
				if !timer.Stop() || err != nil {
					done()
					break
				}
				t.Cleanup(done)
			}
			if taken < tt.most/4 || taken > tt.most/2 {
				t.Errorf("it has taken %d of %d", taken, tt.most)
			}
			late, stop := context.WithTimeout(ctx, patience)
			defer stop()
			root, full := rpc.NewClient(f.root, nil), f.withKey(t, fullKey)
			defer root.Close()
			defer full.Close()
			for who, cc := range map[string]*rpc.Client{"root": root, "the full key": full} {
				for range 8 {
					if err := tt.take(late, cc); err != nil {
						t.Fatalf("%s: %v", who, err)
					}
				}
			}
			access := guestv1.NewControlServiceClient(root)
			if _, err := access.RemoveHostKey(late, &guestv1.RemoveHostKeyRequest{Fingerprint: keys.PublicOf(greedyKey).Fingerprint()}); err != nil {
				t.Fatal(err)
			}
			again := f.withKey(t, greedyKey)
			defer again.Close()
			if _, err := guestv1.NewProcessServiceClient(again).ListSessions(late, &guestv1.ListSessionsRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("the revoked key: %v", err)
			}
		})
	}
}
