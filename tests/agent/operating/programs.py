"""nvpmodel and jetson_clocks as small programs that keep a mode, and note their calls."""

from pathlib import Path

_NVPMODEL = """\
#!/bin/sh
here={here}
echo "nvpmodel $*" >> $here/calls
[ -e "$here/hangs$1" ] && {{ sleep 1000 & echo $! > $here/hanging; wait; }}
[ -e $here/broken ] && {{ echo "NVPM ERROR: no permission"; exit 1; }}
case "$1" in
-q) echo "NV Fan Mode:quiet"; echo "NV Power Mode: MODE$(cat $here/mode)"; cat $here/mode;;
-m) if [ "$2" = 3 ]; then
      echo "NVPM WARN: Reboot required. DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
      read answer || exit 0
    fi
    echo "$2" > $here/mode;;
esac
"""
_CLOCKS = """\
#!/bin/sh
here={here}
lowest=$(find {tree} -name scaling_min_freq -o -path '*devfreq*' -name min_freq)
echo "jetson_clocks $*" >> $here/calls
case "$1" in
--store) if [ -e "$2" ]; then echo "File exists. Can I overwrite it?"; read answer || exit 1; fi
         echo stored > "$2";;
--restore) cat "$2" > /dev/null && rm -f $here/pinned
  for low in $lowest; do mv $low.before $low; done;;
"") touch $here/pinned
  for low in $lowest; do cp $low $low.before && cat ${{low%min_freq}}max_freq > $low; done;;
esac
exit 0
"""


class Programs:
    """To be had by a PATH that begins with ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def written(cls, folder: Path, mode: int = 0, tree: Path | None = None) -> "Programs":
        """``tree`` of the board whose clocks are pinned; None: none has any."""
        programs = cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("nvpmodel", _NVPMODEL), ("jetson_clocks", _CLOCKS)):
            program = folder / name
            program.write_text(text.format(here=folder, tree=tree or folder))
            program.chmod(0o755)
        programs.choose(mode)
        return programs

    def hang(self, option: str) -> None:
        """nvpmodel does, from now on, when it is called with this."""
        (self.folder / f"hangs{option}").touch()

    def work(self) -> None:
        for hangs in self.folder.glob("hangs-*"):
            hangs.unlink()

    @property
    def hanging(self) -> int:
        """The process that nvpmodel has waited for."""
        return int((self.folder / "hanging").read_text())

    def choose(self, mode: int) -> None:
        """Another hand does."""
        (self.folder / "mode").write_text(f"{mode}\n")

    @property
    def mode(self) -> int:
        return int((self.folder / "mode").read_text())

    @property
    def pinned(self) -> bool:
        return (self.folder / "pinned").exists()

    @property
    def calls(self) -> list[str]:
        """Those that change something."""
        made = self.folder / "calls"
        lines = made.read_text().splitlines() if made.exists() else []
        return [line for line in lines if line != "nvpmodel -q"]

    @property
    def path(self) -> str:
        """For programs of the system, too."""
        return f"{self.folder}:/usr/bin:/bin"
