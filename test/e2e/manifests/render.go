package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Kustomize renders a folder as "kubectl kustomize" does.
func Kustomize(dir string) ([]byte, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", dir, err)
	}
	return resources.AsYaml()
}

// Namespace is where the manifests put the daemon.
const Namespace = "kube-system"

// policyAPI is what a cluster of Kubernetes 1.30 or later has.
const policyAPI = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"

// Helm renders a chart as "helm install -n kube-system -f VALUES" does in a cluster that
// has these API versions beside those that every cluster has.
func Helm(dir, values string, apis ...string) ([]byte, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("load the chart %s: %w", dir, err)
	}
	set := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &set); err != nil {
		return nil, fmt.Errorf("read the values: %w", err)
	}
	release := common.ReleaseOptions{Name: "overlay-cni", Namespace: Namespace, Revision: 1, IsInstall: true}
	cluster := *common.DefaultCapabilities
	cluster.APIVersions = append(slices.Clone(cluster.APIVersions), apis...)
	all, err := util.ToRenderValues(chart, set, release, &cluster)
	if err != nil {
		return nil, fmt.Errorf("merge the values: %w", err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, fmt.Errorf("render the chart %s: %w", dir, err)
	}
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) == ".yaml" && strings.TrimSpace(files[name]) != "" {
			fmt.Fprintf(&out, "---\n%s\n", files[name])
		}
	}
	return out.Bytes(), nil
}

// Object is one of a manifest, as text.
type Object struct {
	Kind string
	Name string // namespace/name
	YAML []byte
}

// Split takes a manifest apart.
func Split(manifest []byte) ([]Object, error) {
	var objects []Object
	for decoder := yaml.NewDecoder(bytes.NewReader(manifest)); ; {
		var all yaml.Node
		err := decoder.Decode(&all)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(objects)+1, err)
		}
		o, err := object(all)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(objects)+1, err)
		}
		objects = append(objects, o)
	}
}

func object(all yaml.Node) (Object, error) {
	var head struct {
		Kind     string
		Metadata struct{ Namespace, Name string }
	}
	if err := all.Decode(&head); err != nil {
		return Object{}, err
	}
	text, err := yaml.Marshal(&all)
	return Object{head.Kind, strings.TrimPrefix(head.Metadata.Namespace+"/"+head.Metadata.Name, "/"), text}, err
}

// Rendered is the text of the file that people apply.
func Rendered(dir string) ([]byte, error) {
	const header = "# Made by \"make manifests\" from kustomization.yaml and what that names, where the\n# reasons stand. Apply it as it is, or use the base.\n"
	text, err := Kustomize(dir)
	return append([]byte(header), text...), err
}
