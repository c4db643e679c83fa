// Package nft keeps nf_tables tables. A table is a value (Table): chains with
// rules, sets, and the elements of the sets. Plan compares the wanted table
// with the one that Conn.Read got from the kernel; Conn.Sync applies the
// difference.
//
// Invariants:
//
//   - A change is one transaction of the kernel. A packet meets the old table or
//     the new one, never one in between.
//   - A transaction that follows from what was read is bound to the generation
//     that was read. The kernel refuses it if any other program changed its
//     rules since, and Sync reads again.
//   - Rules are compared by all attributes that the kernel lists, so an altered
//     instruction is noticed even if this package doesn't know it.
//
// # How a table is changed
//
// Rules are not edited one by one. A chain that differs is flushed and refilled.
// A set whose definition differs is replaced, together with all chains, because
// rules hold on to the set that they were added with. Elements are compared, and
// only the difference is sent. The table itself is replaced only if its flags
// differ. Nothing is lost then: a table with the flag "dormant" has no effect.
//
// # Limits
//
// Objects (counters, quotas) and flowtables that somebody adds to the table stay
// unnoticed. They have no effect unless a rule uses them. Comments and timeouts
// of single elements are not compared.
//
// # Why no library
//
// github.com/google/nftables can't bind a transaction to a generation
// (NFNL_BATCH_GENID), and decodes only the instructions that it knows.
//
// Source: linux/netfilter/nf_tables.h and net/netfilter/nf_tables_api.c of the
// kernel; the numbers of types are those of nft (src/datatype.c).
package nft
