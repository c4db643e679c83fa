package kube

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
)

// realistic is a Node as clusters have them, of 13 kB.
func realistic(number int) *corev1.Node {
	now := metav1.NewTime(time.Unix(1_760_000_000, 0))
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("node-%05d", number), UID: "0f2b9d3c-6b0e-4c39-8b1c-0a6b7f0f5a55", ResourceVersion: fmt.Sprint(1000 + number),
			CreationTimestamp: now,
			Labels:            map[string]string{"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "z1"},
			Annotations:       map[string]string{"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
			ManagedFields:     []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", APIVersion: "v1", Time: &now, FieldsV1: metav1.NewFieldsV1(strings.Repeat(`{"f:x":{}},`, 200))}},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24", PodCIDRs: []string{
			fmt.Sprintf("10.%d.%d.0/24", number/256, number%256), fmt.Sprintf("fd45:0:0:%x::/64", number),
		}},
		Status: corev1.NodeStatus{
			Capacity:  corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi")},
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.16.%d.%d", number/250, number%250+1)}, {Type: corev1.NodeHostName, Address: fmt.Sprintf("node-%05d", number)}},
			NodeInfo:  corev1.NodeSystemInfo{KernelVersion: "6.18.0", OSImage: "Debian GNU/Linux 13", ContainerRuntimeVersion: "containerd://2.1.0", KubeletVersion: "v1.35.4", Architecture: "amd64"},
		},
	}
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable, corev1.NodeReady} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionFalse, Reason: "For" + string(kind), Message: "kubelet has sufficient memory available", LastHeartbeatTime: now, LastTransitionTime: now,
		})
	}
	for i := range 50 {
		name := fmt.Sprintf("registry.example.com/team/application-%d", i)
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name + "@sha256:" + strings.Repeat("0123456789abcdef", 4), name + ":v1.2.3"}, SizeBytes: 123_456_789})
	}
	return n
}

// asServer encodes an object as the API server does, in its envelope.
func asServer(t testing.TB, object runtime.Object) []byte {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	kinds, _, err := scheme.ObjectKinds(object)
	if err != nil {
		t.Fatal(err)
	}
	object = object.DeepCopyObject()
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	var out bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(object, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// frameOf is an event as a watch carries it.
func frameOf(t testing.TB, kind watch.EventType, object runtime.Object) []byte {
	t.Helper()
	event := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: asServer(t, object)}}
	body, err := event.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// trimmed is what decoding has to make of a Node.
func trimmed(n *corev1.Node) *node {
	t := &node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion},
		override:   n.Annotations[AddressAnnotation], podCIDRs: n.Spec.PodCIDRs,
	}
	for _, a := range n.Status.Addresses {
		t.addresses = append(t.addresses, address{string(a.Type), a.Address})
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			t.network = condition{string(c.Status), c.Reason, c.Message}
		}
	}
	return t
}

func equalObjects() cmp.Option {
	return cmp.Options{cmp.AllowUnexported(node{}, address{}, condition{}), equalNodes()}
}

func TestDecodeNode(t *testing.T) {
	bare := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "bare"}}
	annotated := realistic(7)
	annotated.Annotations[AddressAnnotation] = "192.0.2.1,fd00::1"
	for _, object := range []*corev1.Node{bare, realistic(1), annotated} {
		got, err := decodeNode(asServer(t, object))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(trimmed(object), got, equalObjects()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", object.Name, diff)
		}
	}
}

func nodesOf(count int) *corev1.NodeList {
	list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "77", Continue: "more"}, Items: []corev1.Node{}}
	for i := range count {
		list.Items = append(list.Items, *realistic(i))
	}
	return list
}

func TestReadList(t *testing.T) {
	for _, count := range []int{0, 1, 30} {
		objects := nodesOf(count)
		for name, from := range map[string]func(io.Reader) io.Reader{
			"whole":       func(r io.Reader) io.Reader { return r },
			"byte a time": iotest.OneByteReader, "end with data": iotest.DataErrReader,
		} {
			list, err := readList(from(bytes.NewReader(asServer(t, objects))))
			if err != nil {
				t.Fatalf("%d nodes, %s: %v", count, name, err)
			}
			if list.ResourceVersion != "77" || list.Continue != "more" || len(list.Items) != count {
				t.Errorf("%d nodes, %s: version %q, continue %q, %d nodes", count, name, list.ResourceVersion, list.Continue, len(list.Items))
			}
			for i, got := range list.Items {
				if diff := cmp.Diff(trimmed(&objects.Items[i]), got, equalObjects()); diff != "" {
					t.Errorf("%d nodes, %s (-want +got):\n%s", count, name, diff)
				}
			}
		}
	}
}

// A list that was cut must not be taken for one with fewer nodes.
func TestReadListThatWasCut(t *testing.T) {
	whole := asServer(t, nodesOf(2))
	// What follows the list in its envelope says nothing about it.
	_, list, err := unwrap(whole)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.Index(whole, list) + len(list)
	for size := range end {
		if got, err := readList(bytes.NewReader(whole[:size])); err == nil {
			t.Fatalf("%d of %d bytes were taken for a list of %d nodes", size, len(whole), len(got.Items))
		}
	}
	if _, err := readList(bytes.NewReader(whole[:end])); err != nil {
		t.Error(err)
	}
}

func TestReadWhatIsNoList(t *testing.T) {
	for data, want := range map[string]string{
		"<html><body>503": `expected an object of Kubernetes in protobuf, found "<htm": is this the address of an API server?`,
		"":                `found ""`,
		magic:             "unexpected EOF",
		magic + "\x12\x20\x12\xff\xff\xff\xff\xff\xff\x01": "the stream is broken",
		magic + "\x12\x20\x08\x01":                         "a field 1 of type 0 where a list was expected",
	} {
		if _, err := readList(strings.NewReader(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", data, err, want)
		}
	}
}

func TestDecodeEvents(t *testing.T) {
	expired := &metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "too old"}
	stream := slices.Concat(frameOf(t, watch.Added, realistic(1)), frameOf(t, watch.Modified, realistic(2)),
		frameOf(t, watch.Deleted, realistic(3)), frameOf(t, watch.Bookmark, &corev1.Node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "88"}}),
		frameOf(t, watch.Error, expired))
	closed := false
	e := &events{reader: newReader(bytes.NewReader(stream)), stop: func() { closed = true }}
	for _, want := range []struct {
		kind   watch.EventType
		object runtime.Object
	}{
		{watch.Added, trimmed(realistic(1))}, {watch.Modified, trimmed(realistic(2))}, {watch.Deleted, trimmed(realistic(3))},
		{watch.Bookmark, &node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "88"}}},
		{watch.Error, expired},
	} {
		kind, object, err := e.Decode()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.object, object, equalObjects()); diff != "" || kind != want.kind {
			t.Errorf("%s, want %s (-want +got):\n%s", kind, want.kind, diff)
		}
	}
	if _, _, err := e.Decode(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("at the end: %v", err)
	}
	if e.Close(); !closed {
		t.Error("the stream is open")
	}
}

func TestDecodeEventsThatAreNone(t *testing.T) {
	whole := frameOf(t, watch.Added, realistic(1))
	for name, tt := range map[string]struct {
		stream []byte
		want   string
	}{
		"cut in the length": {whole[:2], "unexpected EOF"},
		"cut in the object": {whole[:len(whole)-1], "unexpected EOF"},
		"too long":          {[]byte{0xff, 0, 0, 0}, "at most 16777216 are expected"},
		"another kind":      {frameOf(t, watch.Added, &corev1.Pod{}), `expected a Node, found a "Pod"`},
		"no protobuf":       {[]byte("\x00\x00\x00\x02{}"), "decode an event"},
	} {
		told := false
		e := &events{reader: newReader(bytes.NewReader(tt.stream)), broken: func(error) { told = true }}
		if _, _, err := e.Decode(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		} else if told == (strings.Contains(tt.want, "EOF") || strings.Contains(tt.want, "at most")) {
			t.Errorf("%s: told is %v", name, told)
		}
	}
}

// small has all that is used and little else: a fuzzer is slow with large seeds.
func small() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "7", Annotations: map[string]string{AddressAnnotation: "fd00::1"}},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.0.0.0/24"}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: "False", Reason: "x", Message: "y"}},
		},
	}
}

// FuzzDecodeNode: whatever the generated code can read gives the same here, and
// nothing makes it panic.
func FuzzDecodeNode(f *testing.F) {
	data, err := small().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var got node
		var full corev1.Node
		if got.decode(data) != nil || full.Unmarshal(data) != nil {
			return
		}
		if diff := cmp.Diff(trimmed(&full), &got, equalObjects()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// FuzzStreams: nothing that a server sends makes a panic or takes memory without
// end.
func FuzzStreams(f *testing.F) {
	f.Add(asServer(f, &corev1.NodeList{Items: []corev1.Node{*small()}}))
	f.Add(frameOf(f, watch.Added, small()))
	f.Add(frameOf(f, watch.Error, &metav1.Status{Code: 410}))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = readList(bytes.NewReader(data))
		e := &events{reader: newReader(bytes.NewReader(data)), broken: func(error) {}}
		for range 10 {
			if _, _, err := e.Decode(); err != nil {
				return
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data, err := realistic(1).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("used fields", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var n node
			if err := n.decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all fields", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var n corev1.Node
			if err := n.Unmarshal(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
