package images

import (
	"bytes"
	_ "embed" // for the list of packages
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Names of the images for the cluster's own use. They are in no registry.
const (
	Pause   = "e2e.local/pause:1"
	CoreDNS = "e2e.local/coredns:1"
	Agnhost = "e2e.local/agnhost:1"
)

// packages are Debian's that have what the images and nodes are made of. CI
// installs those of this list.
//
//go:embed packages.txt
var packages string

// install is the command that brings them.
func install() string {
	return "apt-get install --no-install-recommends " + strings.Join(strings.Fields(packages), " ")
}

// path is where programs are looked for in images.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// image is one to be made.
type image struct {
	own    string   // the name for the cluster's own use, if any
	asked  []string // names that Kubernetes' tests know it by, without the version and what is before the last slash
	files  func(bin string) (tree, error)
	config v1.Config
}

// tcpServer is a program of Kubernetes' that sends TCP segments out of order.
const tcpServer = "regression-issue-74839"

func all() []image {
	return []image{
		{own: Pause, asked: []string{"pause"}, files: single("pause"), config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{own: CoreDNS, files: single("coredns"), config: v1.Config{Entrypoint: []string{"/coredns"}}},
		{asked: []string{"busybox"}, files: busybox, config: v1.Config{Cmd: []string{"sh"}, Env: []string{path}}},
		{own: Agnhost, asked: []string{"agnhost"}, files: tools, config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{path}}},
		{asked: []string{"glibc-dns-testing"}, files: tools, config: v1.Config{Cmd: []string{"sh"}, Env: []string{path}}},
		// Its tests want any page, on port 80.
		{asked: []string{"nginx"}, files: tools, config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver", "--port=80"}, Env: []string{path}}},
		// Its test looks at conntrack's table.
		{asked: []string{"distroless-iptables"}, files: tools, config: v1.Config{Cmd: []string{"sh"}, Env: []string{path}}},
		{asked: []string{tcpServer}, files: single(tcpServer), config: v1.Config{Entrypoint: []string{"/" + tcpServer}}},
	}
}

// Build makes an archive with all images from the programs in bin: agnhost,
// coredns, pause and e2e.test, which is asked for the names that its tests use.
func Build(archive, bin string) error {
	asked, err := exec.Command(filepath.Join(bin, "e2e.test"), "--list-images").Output()
	if err != nil {
		return fmt.Errorf("ask the tests for their images' names: %w", err)
	}
	named := map[name.Reference]v1.Image{}
	for _, i := range all() {
		built, err := i.build(bin)
		if err != nil {
			return err
		}
		for _, n := range i.names(strings.Fields(string(asked))) {
			reference, err := name.NewTag(n)
			if err != nil {
				return err
			}
			named[reference] = built
		}
	}
	if err := tarball.MultiRefWriteToFile(archive, named); err != nil {
		return fmt.Errorf("write the images' archive: %w", err)
	}
	return nil
}

// names are all that the image gets.
func (i image) names(asked []string) []string {
	var all []string
	if i.own != "" {
		all = append(all, i.own)
	}
	for _, full := range asked {
		repository, _, _ := strings.Cut(full[strings.LastIndex(full, "/")+1:], ":")
		for _, short := range i.asked {
			if repository == short {
				all = append(all, full)
			}
		}
	}
	return all
}

func (i image) build(bin string) (v1.Image, error) {
	files, err := i.files(bin)
	if err != nil {
		return nil, err
	}
	layer, err := files.layer()
	if err != nil {
		return nil, err
	}
	built, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := built.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = "amd64", "linux", i.config
	return mutate.ConfigFile(built, file)
}

// single is an image of one program.
func single(program string) func(string) (tree, error) {
	return func(bin string) (tree, error) { return tree{program: {from: filepath.Join(bin, program)}}, nil }
}

func busybox(string) (tree, error) {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find a program for the images: %w; install it: %s", err, install())
	}
	list, err := exec.Command(program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox what it can do: %w", err)
	}
	files := tree{
		"bin/busybox":       {from: program},
		"etc/passwd":        {text: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
		"etc/group":         {text: "root:x:0:\nnobody:x:65534:\n"},
		"etc/nsswitch.conf": {text: "hosts: files dns\n"},
		"tmp":               {mode: 0o1777},
		"root":              {mode: 0o700},
	}
	for _, applet := range bytes.Fields(list) {
		if path := "bin/" + string(applet); path != "bin/busybox" {
			files[path] = entry{link: "busybox"}
		}
	}
	return files, nil
}

// nameModules are loaded by the C library when it looks a name up, so ldd
// doesn't know of them.
var nameModules = []string{"libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"}

// tools are the image that most tests use: agnhost, and the programs that its
// shell lines call.
func tools(bin string) (tree, error) {
	files, err := busybox("")
	if err != nil {
		return nil, err
	}
	// busybox's shell prefers its own nc, which lacks -v, to that in PATH; its wget
	// crashes with -T.
	for _, name := range []string{"nc", "ip", "bash", "sh", "wget"} {
		delete(files, "bin/"+name)
	}
	if err := files.addPrograms("bash", "dash", "getent", "curl", "nc", "dig", "ip", "ss", "iperf", "wget", "socat", "conntrack"); err != nil {
		return nil, err
	}
	const libraries = "/lib/x86_64-linux-gnu/"
	for _, module := range nameModules {
		if _, err := os.Stat(libraries + module); err == nil {
			files[strings.TrimPrefix(libraries, "/")+module] = entry{from: libraries + module}
		}
	}
	files["bin/sh"] = entry{link: "../usr/bin/dash"}
	files["bin/bash"] = entry{link: "../usr/bin/bash"}
	files["usr/local/bin/iperf"] = entry{link: "../../bin/iperf"}
	files["uploads"] = entry{mode: 0o755}
	files["agnhost"] = entry{from: filepath.Join(bin, "agnhost")}
	files["agnhost-2"] = entry{link: "agnhost"}
	return files, files.addCertificate()
}
