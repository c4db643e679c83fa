package main

import "github.com/overlay-cni/overlay-cni/test/internal/figures"

func median(values []float64) float64 { return figures.Median(values) }

func worst(values []float64) float64 { return figures.Percentile(values, 0.99) }
