package hostport

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Remove makes the table absent, with the host ports of all pods in it, and
// tells whether there was one.
func (k *Kernel) Remove() (bool, error) {
	err := k.conn.transact(anyGeneration, []message{
		tables(unix.NFT_MSG_DELTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, TableName)),
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, unlessNone(explain("delete table inet "+TableName, err))
	}
	return true, nil
}
