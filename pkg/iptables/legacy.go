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
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// ErrNoProgram is what Sync returns where iptables-legacy's rules drop pods'
// packets, or ours have to be removed from them, and the program is missing.
var ErrNoProgram = errors.New("the program iptables-legacy is needed")

// legacy is the rules of ip_tables. The program iptables-legacy lists and
// changes them.
type legacy struct{}

func (legacy) name() string { return "iptables-legacy" }

// legacyStamp is what stamp returns for a table that exists.
type legacyStamp struct {
	legacyInfo
	drops bool // see legacyRules.drops
}

// stamp does not change if a rule is replaced by another one of the same size. But
// it does with the policy of FORWARD, which changes no size.
func (legacy) stamp(f family.Family) (any, error) {
	const small = 64 << 10 // bytes, some 300 rules: reading more would take long
	info, err := filterInfo(f)
	if err != nil || info == (legacyInfo{}) {
		return nil, err
	}
	s := legacyStamp{legacyInfo: info}
	if info.Size <= small {
		rules, err := filterRules(f, info)
		// EAGAIN: the table has changed since, so the next stamp is another one anyway.
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return nil, err
		}
		s.drops = err == nil && rules.drops()
	}
	return s, nil
}

func (legacy) read(f family.Family, want []Rule) (Table, error) {
	p, err := findProgram(f)
	if errors.Is(err, ErrNoProgram) {
		return Table{}, withoutProgram(f, len(want) > 0, err)
	}
	if err != nil {
		return Table{}, err
	}
	return p.read()
}

// withoutProgram returns an error if a change is needed, which only the program can
// make.
func withoutProgram(f family.Family, wanted bool, missing error) error {
	info, err := filterInfo(f)
	if err != nil {
		return err
	}
	rules, err := filterRules(f, info)
	switch {
	case err != nil:
		return err
	case wanted && rules.drops():
		return fmt.Errorf("chain FORWARD drops all packets that reach its end, so it drops pods' packets: %w: "+
			"install iptables-legacy where overlayd runs, or let the host use iptables-nft, "+
			"or accept the packets: iptables-legacy -P FORWARD ACCEPT", missing)
	case !wanted && rules.mentions(ourChain):
		return fmt.Errorf("remove chain %s: %w", ourChain, missing)
	}
	return nil
}

// apply runs iptables-restore, because it carries out all operations in one change.
// go-iptables would run one program for each operation.
func (legacy) apply(f family.Family, ops []Op) error {
	p, err := findProgram(f)
	if err != nil {
		return err
	}
	var lines []string
	for _, op := range ops {
		lines = append(lines, restoreLines(op)...)
	}
	return p.restore(fmt.Sprintf("*%s\n%s\nCOMMIT\n", filterTable, strings.Join(lines, "\n")))
}

// program is iptables-legacy of one family. It runs in the network namespace of
// the calling thread, as child processes do.
type program struct {
	*goiptables.IPTables
	restorePath string
}

// lockWait is for how many seconds the program waits for xtables' lock.
const lockWait = 5

// findProgram looks each time, because packages come and go.
func findProgram(f family.Family) (*program, error) {
	name := "iptables"
	if f == family.IPv6 {
		name = "ip6tables"
	}
	for _, candidate := range []string{name + "-legacy", name} {
		path, err := exec.LookPath(candidate)
		if err != nil || !isLegacy(path) {
			continue
		}
		ipt, err := goiptables.New(goiptables.Path(path), goiptables.Timeout(lockWait))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return &program{IPTables: ipt, restorePath: path + "-restore"}, nil
	}
	return nil, fmt.Errorf("%w: neither %s-legacy nor a %s that is not iptables-nft is in PATH", ErrNoProgram, name, name)
}

// isLegacy asks the program for its version, because the name "iptables" may stand for
// either kind.
func isLegacy(path string) bool {
	version, err := exec.Command(path, "--version").Output()
	return err == nil && !bytes.Contains(version, []byte("nf_tables"))
}

func (p *program) read() (Table, error) {
	base, err := p.List(filterTable, forwardChain)
	if err != nil {
		return Table{}, failed("list the rules of "+forwardChain, err)
	}
	have := Table{Present: true}
	for _, text := range rulesIn(base, forwardChain) {
		have.Forward = append(have.Forward, BaseRule{Kind: kindOfText(text), Text: text})
	}
	own, err := p.List(filterTable, ourChain)
	var exit *goiptables.Error
	if errors.As(err, &exit) && exit.IsNotExist() {
		return have, nil
	}
	if err != nil {
		return Table{}, failed("list the rules of "+ourChain, err)
	}
	have.Chain, have.Rules = true, rulesIn(own, ourChain)
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

// kindOfText tells what a rule of FORWARD means to us. A jump has no options, so
// it ends its rule. A comment never ends a rule, so it can't be taken for a jump.
func kindOfText(rule string) Kind {
	const jump = "-j " + ourChain
	bare := commentMatch.ReplaceAllString(rule, "")
	switch {
	case rule == jump:
		return Jump
	case strings.HasSuffix(rule, " "+jump), bare == jump, strings.HasSuffix(" "+rule, " -g "+ourChain):
		return WrongJump
	case bare == "-j DROP", bare == "-j ACCEPT", bare == "-j RETURN",
		bare == "-j REJECT", strings.HasPrefix(bare, "-j REJECT "):
		return Final
	}
	return Unmanaged
}

// restoreLines writes an operation for iptables-restore, which takes a rule as
// iptables -S printed it. Naming our chain empties it.
func restoreLines(op Op) []string {
	switch op := op.(type) {
	case Fill:
		lines := []string{":" + ourChain + " - [0:0]"}
		for _, text := range texts(op.Rules) {
			lines = append(lines, "-A "+ourChain+" "+text)
		}
		return lines
	case PutJump:
		how := "-A " + forwardChain
		if op.Number > 0 {
			how = "-I " + forwardChain + " " + strconv.Itoa(op.Number)
		}
		return append(deletions(op.Remove), how+" -j "+ourChain)
	case Remove:
		lines := deletions(op.Jumps)
		if op.Chain {
			lines = append(lines, "-F "+ourChain, "-X "+ourChain)
		}
		return lines
	}
	return nil
}

func deletions(rules []BaseRule) []string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, "-D "+forwardChain+" "+r.Text)
	}
	return lines
}

// restoreTimeout ends a program that hangs. It is longer than the wait for the
// lock, because the program itself reports that.
const restoreTimeout = 2 * lockWait * time.Second

// restore has the program carry out all commands or none.
func (p *program) restore(commands string) error {
	ctx, cancel := context.WithTimeout(context.Background(), restoreTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.restorePath, "--noflush", fmt.Sprintf("--wait=%d", lockWait))
	cmd.Stdin = strings.NewReader(commands)
	if output, err := cmd.CombinedOutput(); err != nil {
		return failed(fmt.Sprintf("run %s with %q", p.restorePath, commands),
			fmt.Errorf("%w: %s", err, bytes.TrimSpace(output)))
	}
	return nil
}
