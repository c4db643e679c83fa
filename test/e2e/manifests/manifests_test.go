package manifests

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	yamlv3 "go.yaml.in/yaml/v3"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	kind "sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/yaml"

	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

const (
	base     = "../../../conf/kubernetes"
	chart    = "../../../conf/helm/overlay-cni"
	settings = "overlayd.yaml" // in the ConfigMap
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return text
}

func rendered(t *testing.T) []byte { return read(t, filepath.Join(base, "overlay-cni.yaml")) }

func uninstaller(t *testing.T) []byte { return read(t, filepath.Join(base, "uninstall.yaml")) }

func helm(t *testing.T, values string) []byte {
	t.Helper()
	text, err := Helm(chart, values, policyAPI)
	must(t, err)
	return text
}

func TestRenderedFileIsUpToDate(t *testing.T) {
	want, err := Rendered(base)
	must(t, err)
	if diff := cmp.Diff(string(want), string(rendered(t))); diff != "" {
		t.Errorf("run make manifests: -want +is\n%s", diff)
	}
}

// manifest is all objects of one, as Kubernetes reads them.
type manifest struct {
	ServiceAccount corev1.ServiceAccount
	Role           rbacv1.ClusterRole
	Binding        rbacv1.ClusterRoleBinding
	Policy         admissionv1.ValidatingAdmissionPolicy
	PolicyBinding  admissionv1.ValidatingAdmissionPolicyBinding
	Config         corev1.ConfigMap
	Daemons        appsv1.DaemonSet
}

// decode fails for keys that Kubernetes doesn't know, for other objects, and for
// two of one kind.
func decode(t *testing.T, text []byte) manifest {
	t.Helper()
	objects, err := Split(text)
	must(t, err)
	var m manifest
	into := map[string]any{
		"ServiceAccount": &m.ServiceAccount, "ClusterRole": &m.Role, "ClusterRoleBinding": &m.Binding,
		"ValidatingAdmissionPolicy": &m.Policy, "ValidatingAdmissionPolicyBinding": &m.PolicyBinding,
		"ConfigMap": &m.Config, "DaemonSet": &m.Daemons,
	}
	for _, o := range objects {
		target := into[o.Kind]
		if target == nil {
			t.Fatalf("a second or unexpected %s %s", o.Kind, o.Name)
		}
		delete(into, o.Kind)
		if err := yaml.UnmarshalStrict(o.YAML, target); err != nil {
			t.Errorf("%s %s: %v", o.Kind, o.Name, err)
		}
	}
	return m
}

// settingsOf are the daemon's settings as values: neither comments nor the order
// of keys count.
func (m manifest) settingsOf(t *testing.T) map[string]any {
	t.Helper()
	var all map[string]any
	must(t, yaml.UnmarshalStrict([]byte(m.Config.Data[settings]), &all))
	return all
}

// kubectl and helm give the same, but for comments in the settings.
func TestHelmIsKustomize(t *testing.T) {
	k, h := decode(t, rendered(t)), decode(t, helm(t, ""))
	if diff := cmp.Diff(k.settingsOf(t), h.settingsOf(t)); diff != "" {
		t.Errorf("settings: -kustomize +helm\n%s", diff)
	}
	k.Config.Data[settings], h.Config.Data[settings] = "", ""
	if diff := cmp.Diff(k, h); diff != "" {
		t.Errorf("-kustomize +helm\n%s", diff)
	}
}

// The daemon takes the settings, and they fit what the DaemonSet has around
// them: where it is asked for its health, and where its folders are.
func TestSettings(t *testing.T) {
	m := decode(t, rendered(t))
	file := filepath.Join(t.TempDir(), settings)
	must(t, os.WriteFile(file, []byte(m.Config.Data[settings]), 0o600))
	flags := pflag.NewFlagSet("overlayd", pflag.ContinueOnError)
	loader := config.AddFlags(flags)
	must(t, flags.Parse([]string{"--config=" + file, "--node-name=n1"}))
	live, err := loader.Watch()
	must(t, err)
	defer live.Close()
	c, err := live.Get()
	must(t, err)
	if c.Registry.Type != config.RegistryKube || c.Registry.Kubeconfig != "" {
		t.Errorf("the registry is %+v", c.Registry)
	}
	daemon := m.Daemons.Spec.Template.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{daemon.LivenessProbe, daemon.ReadinessProbe} {
		if at := probeAddress(probe); at != c.Health {
			t.Errorf("the probe asks %s, the daemon answers at %s", at, c.Health)
		}
	}
	mounts := mountsOf(daemon)
	for _, dir := range []string{c.RunDir, dig(m.settingsOf(t), "cni", "confDir"), "/host/proc/sys/net", "/etc/overlay-cni"} {
		if mounts[dir] == "" {
			t.Errorf("%s is not mounted: %v", dir, mounts)
		}
	}
}

func dig(all map[string]any, group, key string) string {
	inner, _ := all[group].(map[string]any)
	return fmt.Sprint(inner[key])
}

func probeAddress(p *corev1.Probe) string {
	return net.JoinHostPort(p.HTTPGet.Host, strconv.Itoa(p.HTTPGet.Port.IntValue()))
}

// mountsOf are the volumes of a container by their places in it.
func mountsOf(c corev1.Container) map[string]string {
	mounts := map[string]string{}
	for _, m := range c.VolumeMounts {
		mounts[m.MountPath] = m.Name
	}
	return mounts
}

// What a container may do is no more than it needs.
func TestContainersAreConfined(t *testing.T) {
	for name, text := range map[string][]byte{"install": rendered(t), "uninstall": uninstaller(t)} {
		t.Run(name, func(t *testing.T) {
			pod := decode(t, text).Daemons.Spec.Template.Spec
			if pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("seccomp: %v", pod.SecurityContext.SeccompProfile)
			}
			if pod.HostPID || pod.HostIPC || !pod.HostNetwork {
				t.Error("the pod shares something else with the host than its network")
			}
			allowed := map[string][]corev1.Capability{"install": nil}
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				want, known := allowed[c.Name]
				if !known {
					want = []corev1.Capability{"NET_ADMIN"}
				}
				checkConfined(t, c, want)
			}
		})
	}
}

func checkConfined(t *testing.T, c corev1.Container, add []corev1.Capability) {
	t.Helper()
	yes, no, root := true, false, int64(0)
	want := &corev1.SecurityContext{
		RunAsUser: &root, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: add},
	}
	if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
		t.Errorf("container %s: -want +is\n%s", c.Name, diff)
	}
	if r := c.Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || len(r.Limits) > 0 {
		t.Errorf("container %s asks for %+v", c.Name, r)
	}
}

// A node's network comes first and goes last.
func TestPodsRunEverywhere(t *testing.T) {
	for name, text := range map[string][]byte{"install": rendered(t), "uninstall": uninstaller(t)} {
		t.Run(name, func(t *testing.T) {
			d := decode(t, text).Daemons
			pod := d.Spec.Template.Spec
			if want := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}; !slices.Equal(pod.Tolerations, want) {
				t.Errorf("it tolerates %v", pod.Tolerations)
			}
			if pod.PriorityClassName != "system-node-critical" || d.Namespace != Namespace {
				t.Errorf("priority %q in namespace %q", pod.PriorityClassName, d.Namespace)
			}
			if d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable == nil || d.Spec.UpdateStrategy.RollingUpdate.MaxSurge != nil {
				t.Errorf("updates: %+v", d.Spec.UpdateStrategy)
			}
		})
	}
}

// Every volume is mounted and every mount has its volume; folders of the host
// have the places that the programs take them to have.
func TestVolumes(t *testing.T) {
	for name, text := range map[string][]byte{"install": rendered(t), "uninstall": uninstaller(t)} {
		t.Run(name, func(t *testing.T) {
			pod := decode(t, text).Daemons.Spec.Template.Spec
			volumes, mounted := map[string]bool{}, map[string]bool{}
			for _, v := range pod.Volumes {
				volumes[v.Name] = true
			}
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				for _, m := range c.VolumeMounts {
					mounted[m.Name] = true
				}
			}
			if diff := cmp.Diff(volumes, mounted); diff != "" {
				t.Errorf("-volumes +mounts\n%s", diff)
			}
			// No more of the host than each needs. Not /run, where the sockets of the
			// container runtime are.
			want := map[string][]string{
				"install":   {nodestate.DefaultDir, "/opt/cni/bin", cnifiles.DefaultConfDir, "/proc/sys/net"},
				"uninstall": {nodestate.DefaultDir, "/opt/cni/bin", cnifiles.DefaultConfDir},
			}[name]
			if diff := cmp.Diff(want, hostPaths(pod)); diff != "" {
				t.Errorf("the host's folders: -want +is\n%s", diff)
			}
		})
	}
}

func hostPaths(pod corev1.PodSpec) []string {
	var paths []string
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	return paths
}

// The uninstaller takes the daemons' place, so it has to be the same DaemonSet.
func TestUninstallerReplacesTheDaemons(t *testing.T) {
	d, u := decode(t, rendered(t)).Daemons, decode(t, uninstaller(t)).Daemons
	if d.Name != u.Name || d.Namespace != u.Namespace || cmp.Diff(d.Spec.Selector, u.Spec.Selector) != "" {
		t.Errorf("%s/%s %v is not %s/%s %v", u.Namespace, u.Name, u.Spec.Selector, d.Namespace, d.Name, d.Spec.Selector)
	}
	for _, c := range slices.Concat(u.Spec.Template.Spec.InitContainers, u.Spec.Template.Spec.Containers) {
		if c.Image != d.Spec.Template.Spec.Containers[0].Image || !slices.Contains(c.Args, "--force") {
			t.Errorf("container %s runs %s %v", c.Name, c.Image, c.Args)
		}
	}
}

// Helm's uninstaller is that of the file, with the chart's values; the rest of the
// chart stays.
func TestHelmUninstaller(t *testing.T) {
	u, h := decode(t, uninstaller(t)).Daemons, decode(t, helm(t, "uninstall: true"))
	if diff := cmp.Diff(u, h.Daemons); diff != "" {
		t.Errorf("-uninstall.yaml +helm\n%s", diff)
	}
	installed := decode(t, helm(t, ""))
	installed.Daemons, h.Daemons = appsv1.DaemonSet{}, appsv1.DaemonSet{}
	if diff := cmp.Diff(installed, h); diff != "" {
		t.Errorf("-installed +to uninstall\n%s", diff)
	}
	for _, tt := range []struct{ values, want string }{
		{"image: {repository: example.com/x, tag: v9}", "example.com/x:v9"},
		{"cni: {binDir: /other/bin}", "/other/bin"},
		{"cni: {confDir: /other/net.d}", "/other/net.d"},
		{"imagePullSecrets: [{name: secret}]", "secret"},
	} {
		pod := decode(t, helm(t, tt.values+"\nuninstall: true")).Daemons.Spec.Template.Spec
		if found := append(hostPaths(pod), pod.InitContainers[0].Image, fmt.Sprint(pod.ImagePullSecrets)); !strings.Contains(fmt.Sprint(found), tt.want) {
			t.Errorf("%s: %q", tt.values, found)
		}
	}
}

// The uninstaller goes by the daemons' settings, under the node's name.
func TestUninstallerKnowsTheSettings(t *testing.T) {
	daemon, u := decode(t, rendered(t)).Daemons.Spec.Template.Spec, decode(t, uninstaller(t)).Daemons.Spec.Template.Spec
	for _, c := range slices.Concat(u.InitContainers, u.Containers) {
		for _, arg := range daemon.Containers[0].Args[1:] {
			if !slices.Contains(c.Args, arg) {
				t.Errorf("container %s has not %s: %v", c.Name, arg, c.Args)
			}
		}
		if diff := cmp.Diff(daemon.Containers[0].Env, c.Env); diff != "" {
			t.Errorf("container %s: -daemon +is\n%s", c.Name, diff)
		}
		if mountsOf(c)["/etc/overlay-cni"] != mountsOf(daemon.Containers[0])["/etc/overlay-cni"] {
			t.Errorf("container %s has not the settings: %v", c.Name, mountsOf(c))
		}
	}
	settings := func(p corev1.PodSpec) corev1.Volume {
		return p.Volumes[slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == "config" })]
	}
	if diff := cmp.Diff(settings(daemon), settings(u)); diff != "" {
		t.Errorf("-daemon +uninstaller\n%s", diff)
	}
}

// All rights: a new one has to be written here, too.
func TestRights(t *testing.T) {
	m := decode(t, rendered(t))
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}},
	}
	if diff := cmp.Diff(want, m.Role.Rules); diff != "" {
		t.Errorf("-want +is\n%s", diff)
	}
	s := m.Binding.Subjects
	if m.Binding.RoleRef.Name != m.Role.Name || len(s) != 1 || s[0].Name != m.ServiceAccount.Name || s[0].Namespace != m.ServiceAccount.Namespace {
		t.Errorf("the binding is of %v to %v", m.Binding.RoleRef, s)
	}
	if m.Daemons.Spec.Template.Spec.ServiceAccountName != m.ServiceAccount.Name {
		t.Error("the daemons have another service account")
	}
}

// The policy is there where the cluster has such policies, or as the value says.
func TestHelmPolicy(t *testing.T) {
	for _, tt := range []struct {
		values string
		apis   []string
		want   bool
	}{
		{"", []string{policyAPI}, true},
		{"", nil, false}, // Kubernetes before 1.30
		{"admissionPolicy: false", []string{policyAPI}, false},
		{"admissionPolicy: true", nil, true},
	} {
		text, err := Helm(chart, tt.values, tt.apis...)
		must(t, err)
		m := decode(t, text)
		if has := m.Policy.Name != ""; has != tt.want || (m.PolicyBinding.Spec.PolicyName != "") != tt.want {
			t.Errorf("%q with %q: the policy is there: %t", tt.values, tt.apis, has)
		}
	}
}

// The policy is about the daemons' account, and denies.
func TestPolicy(t *testing.T) {
	m := decode(t, rendered(t))
	if m.PolicyBinding.Spec.PolicyName != m.Policy.Name || !slices.Equal(m.PolicyBinding.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
		t.Errorf("the binding is %+v", m.PolicyBinding.Spec)
	}
	if e := m.Policy.Spec.MatchConditions[0].Expression; !strings.Contains(e, ":"+m.ServiceAccount.Name+"$") {
		t.Errorf("it matches %s, and the account is %s", e, m.ServiceAccount.Name)
	}
}

func TestValues(t *testing.T) {
	for _, tt := range []struct {
		name, values string
		check        func(manifest) string // what is, where that is wrong
	}{
		{"image", "image: {repository: example.com/x, tag: v9}", func(m manifest) string {
			for _, c := range slices.Concat(m.Daemons.Spec.Template.Spec.InitContainers, m.Daemons.Spec.Template.Spec.Containers) {
				if c.Image != "example.com/x:v9" {
					return c.Image
				}
			}
			return ""
		}},
		{"API server", "apiServer: {host: api.example.com, port: 443}", func(m manifest) string {
			env := m.Daemons.Spec.Template.Spec.Containers[0].Env
			want := []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: "api.example.com"}, {Name: "KUBERNETES_SERVICE_PORT", Value: "443"}}
			return cmp.Diff(want, env[1:])
		}},
		{"API server's usual port", "apiServer: {host: 192.0.2.1}", func(m manifest) string {
			return cmp.Diff("6443", m.Daemons.Spec.Template.Spec.Containers[0].Env[2].Value)
		}},
		{"folders", "cni: {binDir: /a, confDir: /b}", func(m manifest) string {
			return cmp.Diff([]string{"/run/overlay-cni", "/a", "/b", "/proc/sys/net"}, hostPaths(m.Daemons.Spec.Template.Spec))
		}},
		{"a setting more", "config: {vxlan: {port: 8472}}", func(m manifest) string {
			if text := m.Config.Data[settings]; !strings.Contains(text, "port: 8472") || !strings.Contains(text, "type: kube") {
				return text
			}
			return ""
		}},
		{"health elsewhere", "config: {health: {address: '[::1]:9000'}}", func(m manifest) string {
			return cmp.Diff("[::1]:9000", probeAddress(m.Daemons.Spec.Template.Spec.Containers[0].LivenessProbe))
		}},
		{"health everywhere", "config: {health: {address: ':9000'}}", func(m manifest) string {
			return cmp.Diff("127.0.0.1:9000", probeAddress(m.Daemons.Spec.Template.Spec.Containers[0].ReadinessProbe))
		}},
		{"the rest", "{imagePullSecrets: [{name: s}], podAnnotations: {a: b}, tolerations: [{key: k}], nodeSelector: {c: d}}", func(m manifest) string {
			p := m.Daemons.Spec.Template
			return cmp.Diff([]string{"s", "b", "k", "d"}, []string{p.Spec.ImagePullSecrets[0].Name, p.Annotations["a"], p.Spec.Tolerations[0].Key, p.Spec.NodeSelector["c"]})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if wrong := tt.check(decode(t, helm(t, tt.values))); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// The kustomization in the documentation does what the chart's value does.
func TestWithoutKubeProxy(t *testing.T) {
	_, after, found := strings.Cut(string(read(t, "../../../docs/install.md")), "```yaml\n# kustomization.yaml")
	example, _, ended := strings.Cut(after, "```")
	if !found || !ended {
		t.Fatal("there is no such example")
	}
	// A base is named by its way from the kustomization.
	dir := t.TempDir()
	absolute, err := filepath.Abs(base)
	must(t, err)
	way, err := filepath.Rel(dir, absolute)
	must(t, err)
	example = strings.Replace(example, "overlay-cni/conf/kubernetes", way, 1)
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("#"+example), 0o600))
	text, err := Kustomize(dir)
	must(t, err)
	k, h := decode(t, text), decode(t, helm(t, "apiServer: {host: 192.168.77.10}"))
	if diff := cmp.Diff(h.Daemons, k.Daemons); diff != "" {
		t.Errorf("-helm +kustomize\n%s", diff)
	}
}

// Only syntax: kind needs Docker.
func TestKindClusterIsValid(t *testing.T) {
	decoder := yamlv3.NewDecoder(bytes.NewReader(read(t, "../../../conf/kind/cluster.yaml")))
	decoder.KnownFields(true)
	var c kind.Cluster
	must(t, decoder.Decode(&c))
	var roles []kind.NodeRole
	for _, n := range c.Nodes {
		roles = append(roles, n.Role)
	}
	if want := []kind.NodeRole{kind.ControlPlaneRole, kind.WorkerRole, kind.WorkerRole}; !slices.Equal(roles, want) || !c.Networking.DisableDefaultCNI {
		t.Errorf("%v, without kind's own network: %v", roles, c.Networking.DisableDefaultCNI)
	}
}

// What make kind tries the network with: pods of which the Service's are all, and
// which run where the network does.
func TestKindSmokeIsValid(t *testing.T) {
	objects, err := Split(read(t, "../../../conf/kind/smoke.yaml"))
	must(t, err)
	var pods appsv1.DaemonSet
	var service corev1.Service
	into := map[string]any{"DaemonSet": &pods, "Service": &service}
	for _, o := range objects {
		must(t, yaml.UnmarshalStrict(o.YAML, into[o.Kind]))
	}
	labels := pods.Spec.Template.Labels
	for _, selector := range []map[string]string{pods.Spec.Selector.MatchLabels, service.Spec.Selector} {
		if diff := cmp.Diff(labels, selector); diff != "" || len(labels) == 0 {
			t.Errorf("-labels of the pods +selector\n%s", diff)
		}
	}
	if web := pods.Spec.Template.Spec.Containers[0]; service.Spec.Ports[0].Port != web.ReadinessProbe.HTTPGet.Port.IntVal {
		t.Errorf("the Service has %v, the pods %v", service.Spec.Ports, web.ReadinessProbe.HTTPGet)
	}
}

func TestSplitRefusesWhatIsNoYAML(t *testing.T) {
	if _, err := Split([]byte("kind: A\n---\n{")); err == nil || !strings.Contains(err.Error(), "document 2") {
		t.Errorf("got %v", err)
	}
}
