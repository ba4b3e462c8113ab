"""tdpfast: KVM's x86 TDP MMU for TDX guests, emulated."""
