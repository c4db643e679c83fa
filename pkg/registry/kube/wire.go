package kube

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Decoding the few fields that are used takes a tenth of the time and a fiftieth
// of the memory that the generated code takes for whole objects. Field numbers are
// those of k8s.io/api/core/v1/generated.proto and its siblings in apimachinery;
// they are part of Kubernetes' API and never change.

// magic begins each protobuf object of Kubernetes. The message behind it says
// of which kind the object is, and holds the object itself.
const magic = "k8s\x00"

// fields calls visit for each field of a message that is a string, bytes or a
// message. The others, numbers, are of no use here.
func fields(message []byte, visit func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := visit(number, value); err != nil {
			return err
		}
	}
	return nil
}

// unwrap takes the envelope off an object. The result points into data.
func unwrap(data []byte) (kind string, object []byte, err error) {
	message, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		return "", nil, notKubernetes(data)
	}
	err = fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1: // typeMeta
			return fields(value, func(number protowire.Number, value []byte) error {
				if number == 2 {
					kind = string(value)
				}
				return nil
			})
		case 2: // raw
			object = value
		}
		return nil
	})
	return kind, object, err
}

func notKubernetes(begin []byte) error {
	const shown = 40
	return fmt.Errorf("expected an object of Kubernetes in protobuf, found %q: is this the address of an API server?",
		begin[:min(len(begin), shown)])
}

// decodeNode reads a Node in its envelope.
func decodeNode(data []byte) (*node, error) {
	kind, object, err := unwrap(data)
	if err != nil {
		return nil, err
	}
	if kind != "Node" {
		return nil, fmt.Errorf("expected a Node, found a %q", kind)
	}
	n := new(node)
	return n, n.decode(object)
}

// decode adds what a Node message says.
func (n *node) decode(message []byte) error {
	err := fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			return n.decodeMetadata(value)
		case 2:
			return n.decodeSpec(value)
		case 3:
			return n.decodeStatus(value)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("decode node %q: %w", n.Name, err)
	}
	return nil
}

func (n *node) decodeMetadata(message []byte) error {
	return fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			n.Name = string(value)
		case 6:
			n.ResourceVersion = string(value)
		case 12:
			return n.decodeAnnotation(value)
		}
		return nil
	})
}

func (n *node) decodeAnnotation(entry []byte) error {
	var key, text []byte
	err := fields(entry, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			key = value
		case 2:
			text = value
		}
		return nil
	})
	if string(key) == AddressAnnotation {
		n.override = string(text)
	}
	return err
}

func (n *node) decodeSpec(message []byte) error {
	return fields(message, func(number protowire.Number, value []byte) error {
		if number == 7 {
			n.podCIDRs = append(n.podCIDRs, string(value))
		}
		return nil
	})
}

func (n *node) decodeStatus(message []byte) error {
	return fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 4:
			return n.decodeCondition(value)
		case 5:
			return n.decodeAddress(value)
		}
		return nil
	})
}

func (n *node) decodeAddress(message []byte) error {
	var a address
	err := fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			a.kind = string(value)
		case 2:
			a.text = string(value)
		}
		return nil
	})
	n.addresses = append(n.addresses, a)
	return err
}

func (n *node) decodeCondition(message []byte) error {
	var kind, status, reason, text []byte
	err := fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			kind = value
		case 2:
			status = value
		case 5:
			reason = value
		case 6:
			text = value
		}
		return nil
	})
	if string(kind) == networkUnavailable {
		n.network = condition{string(status), string(reason), string(text)}
	}
	return err
}

// decodeListMeta reads what a list says of itself.
func decodeListMeta(message []byte) (metav1.ListMeta, error) {
	var m metav1.ListMeta
	return m, m.Unmarshal(message)
}
