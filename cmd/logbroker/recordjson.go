package main

import (
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"logbroker/consumer"
	"logbroker/producer"
)

// The JSON of records is written by hand: it is the hot path of consume, and
// whether a field is text or base64 depends on its bytes.

// appendRecordJSON appends one line. Bytes that are not UTF-8 come as
// key_base64 or value_base64 in place of key or value. With binary, both the
// plain names and these hold base64.
func appendRecordJSON(dst []byte, r *consumer.Record, binary bool) []byte {
	dst = append(dst, `{"topic":`...)
	dst = appendJSONString(dst, r.Topic)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(r.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, r.Offset, 10)
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10)
	dst = appendBytesField(append(dst, ','), "key", r.Key, binary)
	dst = appendBytesField(append(dst, ','), "value", r.Value, binary)
	dst = append(dst, `,"headers":[`...)
	for i := range r.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"key":`...)
		dst = appendJSONString(dst, r.Headers[i].Key)
		dst = appendBytesField(append(dst, ','), "value", r.Headers[i].Value, binary)
		dst = append(dst, '}')
	}
	return append(dst, "]}\n"...)
}

func appendBytesField(dst []byte, name string, b []byte, binary bool) []byte {
	dst = append(append(dst, '"'), name...)
	switch {
	case b == nil:
		return append(dst, `":null`...)
	case binary:
		dst = appendBase64(append(dst, `":`...), b)
		dst = append(append(append(dst, `,"`...), name...), `_base64":`...)
		return appendBase64(dst, b)
	case utf8.Valid(b):
		return appendJSONText(append(dst, `":`...), b)
	}
	return appendBase64(append(dst, `_base64":`...), b)
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// appendJSONString appends s as a JSON string; what is not UTF-8 becomes U+FFFD.
func appendJSONString(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return appendJSONText(dst, s)
}

// appendJSONText appends s, which is valid UTF-8, as a JSON string.
func appendJSONText[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}

// appendAck appends what produce prints for a stored record.
func appendAck(dst []byte, r *producer.Receipt, jsonLines bool) []byte {
	if !jsonLines {
		dst = append(dst, "Produced to partition "...)
		dst = strconv.AppendInt(dst, int64(r.Partition), 10)
		dst = append(dst, " at offset "...)
		dst = strconv.AppendInt(dst, r.Offset, 10)
		return append(dst, ".\n"...)
	}
	dst = append(dst, `{"topic":`...)
	dst = appendJSONString(dst, r.Topic)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(r.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, r.Offset, 10)
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10)
	return append(dst, "}\n"...)
}
