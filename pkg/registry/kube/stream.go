package kube

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// maxMessage limits what one object may take, in bytes. etcd takes requests of
// 1.5 MB by default; more than this is no Node but a broken stream.
const maxMessage = 16 << 20

// reader takes length-delimited messages from a stream, one at a time into
// the same buffer.
type reader struct {
	from   *bufio.Reader
	buffer bytes.Buffer
}

// window is how much is taken from the connection at a time: some nodes.
const window = 64 << 10

func newReader(from io.Reader) *reader { return &reader{from: bufio.NewReaderSize(from, window)} }

// message returns the next size bytes, which are valid until the next call. The
// buffer grows with what arrives, not with what was announced.
func (r *reader) message(size uint64) ([]byte, error) {
	if size > maxMessage {
		return nil, fmt.Errorf("an object of %d bytes, where at most %d are expected: the stream is broken", size, maxMessage)
	}
	r.buffer.Reset()
	_, err := io.CopyN(&r.buffer, r.from, int64(size))
	return r.buffer.Bytes(), truncated(err)
}

// truncated is err where an end of the stream is none that is allowed.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// field returns the next field's number and the length of its value. Only
// length-delimited fields are expected.
func (r *reader) field() (protowire.Number, uint64, error) {
	tag, err := binary.ReadUvarint(r.from)
	if err != nil {
		return 0, 0, err // io.EOF, if it is the end
	}
	number, kind := protowire.DecodeTag(tag)
	if number < protowire.MinValidNumber || kind != protowire.BytesType {
		return 0, 0, fmt.Errorf("a field %d of type %d where a list was expected: the stream is broken", number, kind)
	}
	size, err := binary.ReadUvarint(r.from)
	return number, size, truncated(err)
}

// readList decodes a NodeList while it arrives, so that there is never more
// than one whole Node in memory.
func readList(from io.Reader) (*nodeList, error) {
	r := newReader(from)
	begin := make([]byte, len(magic))
	if n, err := io.ReadFull(r.from, begin); err != nil || string(begin) != magic {
		return nil, errors.Join(notKubernetes(begin[:n]), truncated(err))
	}
	for {
		number, size, err := r.field()
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the list of nodes: %w", truncated(err))
		case number == 2: // the object in its envelope
			return r.items(size)
		}
		if _, err := r.message(size); err != nil {
			return nil, fmt.Errorf("read the list of nodes: %w", err)
		}
	}
}

// items reads the list itself, which is size bytes long.
func (r *reader) items(size uint64) (*nodeList, error) {
	whole := r.from
	rest := &io.LimitedReader{R: whole, N: int64(min(size, 1<<62))}
	r.from = bufio.NewReaderSize(rest, window)
	list := &nodeList{}
	for {
		number, size, err := r.field()
		if errors.Is(err, io.EOF) && rest.N == 0 {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the list of nodes: %w", truncated(err))
		}
		message, err := r.message(size)
		if err == nil {
			err = list.add(number, message)
		}
		if err != nil {
			return nil, fmt.Errorf("read the list of nodes: %w", err)
		}
	}
}

func (l *nodeList) add(number protowire.Number, message []byte) (err error) {
	switch number {
	case 1:
		l.ListMeta, err = decodeListMeta(message)
	case 2:
		n := new(node)
		err = n.decode(message)
		l.Items = append(l.Items, n)
	}
	return err
}

// events decodes the stream of a watch: frames with four bytes of length
// before them, each of them a WatchEvent with an object in its envelope.
type events struct {
	reader *reader
	broken func(error)
	stop   func() // closes the stream
}

// Decode waits for the next event.
func (e *events) Decode() (watch.EventType, runtime.Object, error) {
	var size [4]byte
	if _, err := io.ReadFull(e.reader.from, size[:]); err != nil {
		return "", nil, err
	}
	frame, err := e.reader.message(uint64(binary.BigEndian.Uint32(size[:])))
	if err != nil {
		return "", nil, err
	}
	kind, object, err := decodeEvent(frame)
	if err != nil {
		e.broken(err)
	}
	return kind, object, err
}

// Close ends the watch, and a Decode that waits.
func (e *events) Close() { e.stop() }

func decodeEvent(frame []byte) (watch.EventType, runtime.Object, error) {
	var kind watch.EventType
	var raw []byte
	err := fields(frame, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			kind = watch.EventType(value)
		case 2: // a message with one field, the object
			return fields(value, func(number protowire.Number, value []byte) error {
				if number == 1 {
					raw = value
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("decode an event: %w", err)
	}
	if kind == watch.Error {
		status, err := decodeStatus(raw)
		return kind, status, err
	}
	n, err := decodeNode(raw)
	if err != nil {
		return "", nil, fmt.Errorf("decode an event %q: %w", kind, err)
	}
	return kind, n, nil
}

// decodeStatus reads why a watch ends.
func decodeStatus(raw []byte) (*metav1.Status, error) {
	_, object, err := unwrap(raw)
	if err != nil {
		return nil, fmt.Errorf("decode an error of a watch: %w", err)
	}
	status := new(metav1.Status)
	if err := status.Unmarshal(object); err != nil {
		return nil, fmt.Errorf("decode an error of a watch: %w", err)
	}
	return status, nil
}
