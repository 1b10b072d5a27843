package guest

import (
	"context"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// AddHostKey lets the holder of a key call the guest: of key, PublicKey, Name
// and Roles count. The caller must be one that the agent lets do that.
func (g *Guest) AddHostKey(ctx context.Context, key *guestv1.HostKey) (*guestv1.AddHostKeyResponse, error) {
	resp, err := guestv1.NewControlServiceClient(g.conn).AddHostKey(ctx, &guestv1.AddHostKeyRequest{Key: key})
	return resp, g.wrap("add host key", guestv1.ControlService_AddHostKey_FullMethodName, err)
}

// RemoveHostKey revokes the key with a fingerprint.
func (g *Guest) RemoveHostKey(ctx context.Context, fingerprint string) (*guestv1.RemoveHostKeyResponse, error) {
	resp, err := guestv1.NewControlServiceClient(g.conn).RemoveHostKey(ctx, &guestv1.RemoveHostKeyRequest{Fingerprint: fingerprint})
	return resp, g.wrap("remove host key", guestv1.ControlService_RemoveHostKey_FullMethodName, err)
}

// HostKeys returns the keys that the agent knows, revoked ones too.
func (g *Guest) HostKeys(ctx context.Context) ([]*guestv1.HostKey, error) {
	resp, err := call[guestv1.ListHostKeysRequest, guestv1.ListHostKeysResponse](ctx, g, "list host keys",
		guestv1.ControlService_ListHostKeys_FullMethodName, &guestv1.ListHostKeysRequest{})
	return resp.GetKeys(), err
}

// Policy returns the policy that the agent has in force.
func (g *Guest) Policy(ctx context.Context) (*guestv1.GetPolicyResponse, error) {
	return call[guestv1.GetPolicyRequest, guestv1.GetPolicyResponse](ctx, g, "get policy",
		guestv1.ControlService_GetPolicy_FullMethodName, &guestv1.GetPolicyRequest{})
}

// Explain asks the agent what would become of a call of this caller.
func (g *Guest) Explain(ctx context.Context, request *guestv1.ExplainRequest) (*guestv1.ExplainResponse, error) {
	return call[guestv1.ExplainRequest, guestv1.ExplainResponse](ctx, g, "explain",
		guestv1.AccessService_Explain_FullMethodName, request)
}
