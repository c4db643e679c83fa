package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
)

// legacy is the door to ip_tables' tables. It looks by system calls whether
// there is anything to do, and does it by the program iptables-legacy.
type legacy struct{}

func (legacy) name() string { return "iptables-legacy" }

func (legacy) has(Spot) bool { return true }

// stamp looks at the whole table if something of ours is to be in it. Else its
// size is enough: kube-proxy may have tens of thousands of rules in table nat,
// and nobody but us puts chains of ours there.
func (legacy) stamp(c Chain) (uint64, error) {
	if len(c.Rules) == 0 {
		return sumOf(c.Family, c.Spot.Table, sizeOnly)
	}
	return sumOf(c.Family, c.Spot.Table, anySize)
}

func sumOf(f Family, table string, limit uint32) (uint64, error) {
	d, err := readDump(f, table, limit)
	if err != nil || d == nil {
		return 0, err
	}
	return d.sum(), nil
}

// read runs no program if there is nothing to do, and is content without one if
// nothing needs doing. So a host without rules needs no iptables.
func (legacy) read(want Chain) (Table, error) {
	d, err := readDump(want.Family, want.Spot.Table, anySize)
	if err != nil {
		return Table{}, err
	}
	wanted := len(want.Rules) > 0
	switch {
	case d == nil && wanted && want.Spot.Make:
		return Table{Present: true}, nil
	case d == nil, !wanted && !d.mentions(want.Spot.Chain):
		return Table{}, nil
	}
	p, err := findProgram(want.Family)
	if err == nil {
		return p.read(want.Spot)
	}
	if errors.Is(err, ErrNoProgram) && wanted && !want.Spot.Make {
		return Table{}, withoutProgram(d, err)
	}
	return Table{}, err
}

// withoutProgram is an error if the rules do keep pods' packets from passing.
func withoutProgram(d *dump, err error) error {
	if !d.drops() {
		return nil
	}
	return fmt.Errorf("chain FORWARD drops all packets that come to its end, pods' too: %w: "+
		"let the host use iptables-nft, or install iptables-legacy where overlayd runs, "+
		"or have the packets pass: iptables-legacy -P FORWARD ACCEPT", err)
}

func (legacy) apply(f Family, spot Spot, ops []Op) error {
	p, err := findProgram(f)
	if err != nil {
		return err
	}
	var commands []string
	for _, op := range ops {
		commands = append(commands, restoreCommands(op)...)
	}
	return p.restore(fmt.Sprintf("*%s\n%s\nCOMMIT\n", spot.Table, strings.Join(commands, "\n")))
}

// program is iptables-legacy of one family. It is run in the network namespace
// of the calling thread, as child processes are.
type program struct {
	*goiptables.IPTables
	restorePath string
}

// lockWait is how many seconds to wait for a program that holds xtables' lock.
const lockWait = 5

// findProgram is called each time, because packages come and go. It runs the
// program twice, for its version.
func findProgram(f Family) (*program, error) {
	name := map[Family]string{IPv4: "iptables", IPv6: "ip6tables"}[f]
	for _, candidate := range []string{name + "-legacy", name} {
		path, err := exec.LookPath(candidate)
		if err != nil || !isLegacy(path) {
			continue
		}
		ipt, err := goiptables.New(goiptables.Path(path), goiptables.Timeout(lockWait))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !ipt.HasRandomFully() {
			return nil, fmt.Errorf("%s: %w: it is older than 1.6.2", path, ErrNoProgram)
		}
		return &program{IPTables: ipt, restorePath: path + "-restore"}, nil
	}
	return nil, fmt.Errorf("%w: neither %s-legacy nor a %s that is not iptables-nft is in PATH", ErrNoProgram, name, name)
}

// isLegacy asks the program itself: "iptables" is either of two.
func isLegacy(path string) bool {
	version, err := exec.Command(path, "--version").Output()
	return err == nil && !bytes.Contains(version, []byte("nf_tables"))
}

func (p *program) read(spot Spot) (Table, error) {
	base, err := p.List(spot.Table, spot.Base)
	if err != nil {
		return Table{}, failed("list the rules of "+spot.Base, err)
	}
	have := Table{Present: true}
	for _, text := range rulesIn(base, spot.Base) {
		have.Base = append(have.Base, BaseRule{Kind: kindOfText(text, spot.Chain), Text: text})
	}
	own, err := p.List(spot.Table, spot.Chain)
	var exit *goiptables.Error
	if errors.As(err, &exit) && exit.IsNotExist() {
		return have, nil
	}
	if err != nil {
		return Table{}, failed("list the rules of "+spot.Chain, err)
	}
	have.Chain, have.Rules = true, rulesIn(own, spot.Chain)
	return have, nil
}

// rulesIn picks the rules out of what iptables -S printed for a chain.
func rulesIn(lines []string, chain string) []string {
	var rules []string
	for _, line := range lines {
		if rule, is := strings.CutPrefix(line, "-A "+chain+" "); is {
			rules = append(rules, rule)
		}
	}
	return rules
}

// commentMatch is a comment in a rule, which has no effect.
var commentMatch = regexp.MustCompile(`-m comment --comment (?:"(?:[^"\\]|\\.)*"|[^" ]+) `)

// kindOfText tells what a rule of a built-in chain is to the chain of ours. A
// jump has no options, so it ends its rule; a comment ends none, and can't be
// taken for one.
func kindOfText(rule, chain string) Kind {
	bare := commentMatch.ReplaceAllString(rule, "")
	jump := "-j " + chain
	switch {
	case rule == jump:
		return Right
	case strings.HasSuffix(rule, " "+jump), bare == jump, strings.HasSuffix(" "+rule, " -g "+chain):
		return Stray
	case bare == "-j DROP", bare == "-j ACCEPT", bare == "-j RETURN",
		bare == "-j REJECT", strings.HasPrefix(bare, "-j REJECT "):
		return Final
	}
	return Foreign
}

// restoreCommands are the lines for iptables-restore, which takes a rule in the
// very form in which iptables -S printed it. To name an existing chain of ours
// empties it.
func restoreCommands(op Op) []string {
	switch op := op.(type) {
	case Fill:
		chain := op.Chain.Spot.Chain
		lines := []string{":" + chain + " - [0:0]"}
		for _, text := range op.Chain.texts() {
			lines = append(lines, "-A "+chain+" "+text)
		}
		return lines
	case Jump:
		how := "-A " + op.Spot.Base
		if op.Number > 0 {
			how = "-I " + op.Spot.Base + " " + strconv.Itoa(op.Number)
		}
		return append(deletions(op.Spot.Base, op.Remove), how+" -j "+op.Spot.Chain)
	case Remove:
		lines := deletions(op.Spot.Base, op.Jumps)
		if op.Chain {
			lines = append(lines, "-F "+op.Spot.Chain, "-X "+op.Spot.Chain)
		}
		return lines
	}
	return nil
}

func deletions(base string, rules []BaseRule) []string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, "-D "+base+" "+r.Text)
	}
	return lines
}

// restoreTimeout ends a program that hangs. It is longer than the wait for the
// lock, of which the program itself tells.
const restoreTimeout = 2 * lockWait * time.Second

// restore has a list of commands carried out, all of them or none. go-iptables
// would run a program for each of them, and packets would meet what is between.
func (p *program) restore(commands string) error {
	ctx, cancel := context.WithTimeout(context.Background(), restoreTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.restorePath, "--noflush", fmt.Sprintf("--wait=%d", lockWait))
	cmd.Stdin = strings.NewReader(commands)
	output, err := cmd.CombinedOutput()
	if bytes.Contains(output, []byte("unable to initialize table")) {
		err = fmt.Errorf("%w: load the modules iptable_filter and iptable_nat, or ip6table_filter and ip6table_nat", err)
	}
	if err != nil {
		return failed(fmt.Sprintf("run %s with %q", p.restorePath, commands),
			fmt.Errorf("%w: %s", err, bytes.TrimSpace(output)))
	}
	return nil
}
