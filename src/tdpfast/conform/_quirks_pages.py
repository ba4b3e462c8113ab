"""Quirks of guest pages and their PAMT entries: REMOVE, UNBLOCK, RELOCATE, RECLAIM, RDMD, WBINVD, AUG."""
from __future__ import annotations

from tdpfast.conform._quirk_scene import HPA, Scene
from tdpfast.conform._seam_rig import LIFECYCLE

_MARK = 0xABAB
"""What a guest page holds."""


def blocked(scene: Scene, level: int, state: str, *, epoch: int = 1, **start) -> None:
    """A page blocked in an epoch and tracked since."""
    scene.start(level, state, epoch=epoch, **start)
    scene.block()
    scene.track()


def _remove_stale(scene: Scene) -> dict:
    blocked(scene, 0, "MAPPED", epoch=scene.given("pamt.bepoch", 1), tdr=scene.given("pamt.owner", 0))
    scene.rig.must("mem_page_remove", rcx=scene.rcx(), rdx=scene.at.tdr)
    read = scene.host("rdmd", rcx=scene.guest_page())
    return dict(pamt=scene.pamt(scene.guest_page()),
                **{f"rdmd_{name}": value for name, value in read.show("rcx", "rdx", "r8", "r9").items()})


def _unblock(scene: Scene) -> dict:
    blocked(scene, 0, "MAPPED", epoch=scene.given("pamt.bepoch", 1), tdr=scene.given("pamt.owner", 0),
            page=scene.given("entry", 0))
    scene.rig.must("mem_range_unblock", rcx=scene.rcx(), rdx=scene.at.tdr)
    return dict(pamt=scene.pamt(scene.guest_page()), entry=scene.entry())


def _relocate(scene: Scene, state: str, old_word: int, new_word: int) -> dict:
    """The words are what the pages hold before."""
    blocked(scene, 0, state, epoch=scene.given("old.bepoch", 1), tdr=scene.given("old.owner", 0),
            page=scene.given("rcx", 0), aux=scene.given("entry", 0))
    scene.set_pamt(scene.guest_page(), content=old_word)
    scene.set_pamt(scene.at.aux, content=new_word, bepoch=7)
    answer = scene.host("page_relocate", r8=scene.at.aux)
    return answer.show("status", "rcx", "rdx") | dict(
        entry=scene.entry(), new_word=scene.rig.module.content(scene.at.aux), old=scene.pamt(scene.guest_page()),
        new=scene.pamt(scene.at.aux))


def _relocate_pending(scene: Scene) -> dict:
    return _relocate(scene, "PENDING", _MARK, scene.given("new_word", 1))


def _relocate_mapped(scene: Scene) -> dict:
    return _relocate(scene, "MAPPED", scene.given("new_word", _MARK), 1)


# ---- RECLAIM

def _reclaim(scene: Scene, level: int, inside: int = 0, lifecycle: str = "TD_TEARDOWN") -> dict:
    tdr = scene.given("rdx", 0) & HPA
    scene.start(level, "MAPPED", tdr=tdr)
    scene.set_td(lifecycle=LIFECYCLE[lifecycle])
    before = scene.td()["chldcnt"]
    answer = scene.host("reclaim", rcx=scene.guest_page() + inside, rdx=0)
    return answer.show("status", "rcx", "rdx", "r8", "r9") | dict(
        chldcnt_delta=scene.td()["chldcnt"] - before, pamt=scene.pamt(scene.guest_page(), level))


def _reclaim_tdr(scene: Scene, children: bool) -> dict:
    scene.start()
    scene.set_td(lifecycle=LIFECYCLE["TD_TEARDOWN"])
    if not children:
        scene.set_td(chldcnt=0)
    return scene.host("reclaim", rcx=scene.at.tdr, rdx=0).show("status", "rcx", "rdx", "r8", "r9")


# ---- RDMD and what other calls leave in the registers

def _rdmd_inside(scene: Scene) -> dict:
    scene.start(1, "MAPPED", tdr=scene.given("rdx", 0) & HPA)
    return scene.host("rdmd", rcx=scene.guest_page() + 5 * 4096, rdx=0).show("status", "rcx", "rdx", "r8", "r9")


def _rdmd_bepoch(scene: Scene) -> dict:
    blocked(scene, 0, "MAPPED", epoch=scene.given("r9", 1))
    return scene.host("rdmd", rcx=scene.guest_page(), rdx=0).done().show("rcx", "rdx", "r8", "r9")


def _track_outputs(scene: Scene) -> dict:
    scene.start(tdr=scene.given("rcx", 0))
    return scene.host("track", rcx=scene.at.tdr, rdx=scene.given("rdx", 0x1234),
                      r8=scene.given("r8", 0x99)).done().show("rcx", "rdx", "r8")


def _wbinvd_outputs(scene: Scene) -> dict:
    scene.start()
    return scene.host("wbinvd", rcx=scene.given("rcx", scene.at.aux), rdx=scene.given("rdx", 0x1234)).done().show(
        "rcx", "rdx")


def _aug_outputs(scene: Scene) -> dict:
    scene.start(aux=scene.given("r8", 0))
    return scene.host("page_aug", r8=scene.at.aux, r9=scene.given("r9", 5)).done().show("rcx", "rdx", "r8", "r9")


# ---- AUG of a page that is in use

def _aug_range_not_free(scene: Scene) -> dict:
    """One small page of the range is another TD's."""
    scene.start(1)
    scene.set_pamt(scene.at.aux + 5 * 4096, pt=3, owner=scene.at.tdr + 0x100000)
    return scene.host("page_aug", r8=scene.at.aux).show("status")


def _tdr_as_page(scene: Scene) -> dict:
    scene.start()
    answer = scene.host("page_aug", r8=scene.at.tdr)
    after = scene.pamt(scene.at.tdr)["lock"]
    scene.host("sept_rd")
    return dict(status=answer.status, tdr_lock_after=after, after_next_call=scene.pamt(scene.at.tdr)["lock"])


def _aug_over_tdr(scene: Scene) -> dict:
    scene.start(1)
    answer = scene.host("page_aug", r8=scene.at.tdr & -(1 << 21))
    return dict(status=answer.status, lock_2m=scene.pamt(scene.at.tdr, 1)["lock"])


QUIRKS = {
    "remove-stale-pamt": _remove_stale,
    "unblock-keeps-bepoch": _unblock,
    "relocate-pending": _relocate_pending,
    "relocate-mapped": _relocate_mapped,
    "reclaim-inside-2m": lambda scene: _reclaim(scene, 1, 5 * 4096),
    "reclaim-2m": lambda scene: _reclaim(scene, 1),
    "reclaim-live": lambda scene: _reclaim(scene, scene.given("r8", 0), lifecycle="TD_KEYS_CONFIGURED"),
    "reclaim-tdr-children": lambda scene: _reclaim_tdr(scene, True),
    "reclaim-tdr": lambda scene: _reclaim_tdr(scene, False),
    "rdmd-inside-2m": _rdmd_inside,
    "rdmd-bepoch": _rdmd_bepoch,
    "track-outputs": _track_outputs,
    "wbinvd-outputs": _wbinvd_outputs,
    "aug-outputs": _aug_outputs,
    "aug-2m-range-not-free": _aug_range_not_free,
    "tdr-as-page": _tdr_as_page,
    "aug2m-over-tdr-region": _aug_over_tdr,
}
"""Quirk -> what runs its situation and measures."""
