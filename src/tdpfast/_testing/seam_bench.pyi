from tdpfast._face.seam_module import SeamModule

def run(module: SeamModule, leaf: int, n: int, lp: int = 0, rcx: int = 0, rcx_step: int = 0, rdx: int = 0,
        r8: int = 0, r8_step: int = 0, r9: int = 0) -> tuple[int, dict[int, int]]: ...
def run_guest(module: SeamModule, what: str, n: int, lp: int, rcx: int = 0,
              rcx_step: int = 0) -> tuple[int, dict[int, int]]: ...

GUEST: tuple[str, ...]
