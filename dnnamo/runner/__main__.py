"""Entry point of a keeper: `python -P -m dnnamo.runner CONTROL_FD [--cores 0,1] [--fork] [--preload PACKAGE]`."""

# User code may start processes with multiprocessing's spawn, which imports this file under another name.
if __name__ == "__main__":
    from dnnamo.runner.keeper import main

    main()
