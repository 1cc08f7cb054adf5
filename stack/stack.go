package stack

import (
	"log/slog"

	"github.com/moby/sys/user"

	"layervault/layer"
)

// Stack mounts and compares the layers of one store. It is safe for concurrent use; a layer must
// not be removed, nor its image be made, while the layer is opened.
type Stack struct {
	store *layer.Store
	idmap user.IdentityMapping
	log   *slog.Logger
}

// New makes a Stack. The owners in its tars are those of idmap's container.
func New(store *layer.Store, idmap user.IdentityMapping, log *slog.Logger) *Stack {
	return &Stack{store: store, idmap: idmap, log: log}
}
