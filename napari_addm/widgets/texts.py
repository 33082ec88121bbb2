"""Labels, tooltips and messages of the widgets."""

from __future__ import annotations

from html import escape
from typing import NamedTuple


class Text(NamedTuple):
    """The name of a field, and its tooltip."""

    label: str
    tip: str


CAUTION_ICON = "⚠"
NOTES = Text("Notes", "Harmless. Click to fold or unfold.")
NO_PROMISE = "False alarms in healthy brains: not valid for this scan, {}."
NO_PROMISE_WHY = {
    "alarm": "whose map is not to be trusted",
    "flag": "unlike the training scans",
    "caution": "see the cautions",
}
PRESET_DOUBTED = "The threshold for {:g} mL of false alarm in {}. This scan may have far more."


def as_written(words: str) -> str:
    """Return a tooltip or notification that Qt shows letter by letter.

    Names, descriptions and notes come from files. Qt would read them as markup, and open the
    picture that they name.
    """
    return words if "<" not in words and "&" not in words else _rich(words)


def wrapped(words: str) -> str:
    """Return a tooltip, plain or from `as_written`, that Qt breaks into lines of readable width."""
    return words if words.startswith("<qt>") else _rich(words)


def _rich(words: str) -> str:
    return f"<qt>{escape(words)}</qt>".replace("\n", "<br>")


OUT_OF_MEMORY = (
    "Out of memory: close other programs, use fewer draws or a smaller batch, or crop the scan."
)

SCAN_SECTION = Text("Scan", "The scan to examine. Click to fold or unfold.")
MODEL_SECTION = Text(
    "Model", "The model that rebuilds the scan, and its settings. Click to fold or unfold."
)
FINDINGS_SECTION = Text(
    "Findings", "Regions with scores above the threshold. Click to fold or unfold."
)
TRUTH_SECTION = Text(
    "Ground truth", "Agreement of the findings with known lesions. Click to fold or unfold."
)
VIEW_SECTION = Text("View", "How the layers are shown. Click to fold or unfold.")
SAVE_SECTION = Text("Save", "Results as files, and earlier reviews. Click to fold or unfold.")
ADVANCED_SECTION = Text("Advanced", "Settings that rarely need a change. Click to fold or unfold.")

WELCOME = (
    "No scan is open yet. Open a T1-weighted brain scan, or drop its file or DICOM folder onto the "
    "viewer."
)
OPEN_SCAN = Text("Open a scan...", "A file in NIfTI, MGH or NRRD format, or a DICOM image.")
OPEN_DICOM = Text(
    "Open a DICOM folder...",
    "Looks for MR series in the folder and below it. With several, you choose one.",
)
READING = "Reading {} ..."
LOOKING_FOR_SERIES = "Looking for series in {} ..."
SERIES_TITLE = "Choose a series"
SERIES_FOUND = "{} holds {} series. The map needs a T1 of the brain without contrast agent."
SERIES_COLUMNS = ("No.", "Series", "Images", "Kind")
SERIES_KINDS = {
    "with": "T1 of the brain, with contrast agent",
    "unclear": "T1 of the brain, perhaps with contrast agent",
}
SERIES_T1 = "T1 of the brain"
SERIES_OTHER = "another kind"
OPEN_SERIES = "Open"
GUIDE_TITLE = "ADDM: how to read a map and review a case"
HELP = Text("Help", "Opens the guide in a window of its own. It needs no network.")

SCAN = Text("Scan", "The T1-weighted brain scan to examine: a 3D image layer.")
TRUTH = Text(
    "Labels",
    "Optional labels layer; every label except 0 counts as anomaly. With it, the panel measures "
    "agreement.",
)
BRAIN_MASK = Text(
    "Brain mask",
    "Optional labels layer that marks the brain. 'Automatic' uses the voxels of a stripped scan "
    "that are not background, and strips the skull of a whole head with deepbet.",
)
OPEN_DEMO = Text("Open the demo case", "Colin27, a healthy brain, with a simulated lesion.")
RESAMPLE = Text(
    "Resample onto the scan",
    "Adds a copy of the labels on the scan's voxels (nearest neighbor) and chooses it.",
)
RESAMPLING = "Resampling ..."
OPEN_LABELS = Text("File...", "Open a file of labels and choose it.")
TAKE_FRAME = Text(
    "Take this frame",
    "Adds the frame on screen as a layer of its own and chooses it.",
)
CHECKPOINT = Text(
    "Checkpoint",
    "The trained model. The bundled one is small and made for demonstration; train others with "
    "napari-addm train.",
)
RUN_PRESET = Text(
    "Preset",
    "Speed against quality. It sets the fields under 'Model', down to the device, and the score. "
    "It shows 'Custom' if one of them is different.",
)
RUN_PRESETS = {
    "preview": Text(
        "Preview",
        "One draw, and a tenth of the steps if the checkpoint uses many: the quickest look. "
        "Scores vary more with the seed, and there is no uncertainty map.",
    ),
    "standard": Text(
        "Standard", "The checkpoint's own settings, which its threshold was chosen with."
    ),
    "thorough": Text(
        "Thorough",
        "Twice the checkpoint's draws, in twice the time. Map and uncertainty vary less with the "
        "seed; do not expect more findings.",
    ),
}
CUSTOM_PRESET = "Custom"
MODEL_NAMED = "Model: {}, {}"
MODEL_UNREADABLE = "Model: the checkpoint cannot be read"
SCOPE = Text(
    "Scope",
    "This slice: the axial slice on screen, for a quick look. Its neighbors are reconstructed "
    "too, so its scores are close to those of the whole volume, which the threshold was calibrated "
    "for.",
)
THIS_SLICE = "This slice"
WHOLE_VOLUME = "Whole volume"

RESET = Text(
    "Reset to defaults",
    "Resets 'Model' and the plugin's preferences: the bundled checkpoint with its own settings, "
    "and nothing remembered.",
)
CALIBRATE = Text(
    "Calibrate for my scanner...",
    "Sets the threshold by your own healthy scans, so that what is promised of false alarms holds "
    "for your scanner.",
)
CALIBRATE_TITLE = "Calibrate for my scanner"
CALIBRATE_HINT = (
    "Runs the model on 5 to 20 healthy scans of your scanner, which takes as long as so many runs, "
    "and sets its threshold so that 9 of 10 such brains have at most {:g} mL of false alarm."
)
HEALTHY_SCANS = Text(
    "Healthy scans",
    "A folder with T1-weighted scans of adults without a known disease, which the model was not "
    "trained on: one person each, one scanner, one protocol.",
)
CALIBRATE_OUTPUT = Text("Save as", "The new checkpoint. The chosen one stays as it is.")
CALIBRATE_SAVE_AS = Text("Save as...", "Choose where the new checkpoint is saved.")
CALIBRATE_NO_FOLDER = "No folder is chosen."
CALIBRATE_LOOKING = "Looking for scans ..."
CALIBRATE_FOUND = "{} scans: the promise will be about {} healthy brains."
CALIBRATE_TOO_FEW = "{} scans are too few: choose a folder with {} or more."
CALIBRATE_START = "Calibrate"
CALIBRATE_LOADING = "Loading the checkpoint"
CALIBRATE_SCAN = "Scan {} of {}"
CALIBRATE_CANCEL = Text("Cancel", "Stops within one step of the network. Nothing is written.")
CALIBRATE_CANCELLED = "The calibration was cancelled; nothing was written."
CALIBRATED = "Saved as {} and chosen: {}. Press Run to use it."
CALIBRATED_ODD = (
    "{} of the {} scans look unlike those of the training ({}): leave them out if they are not "
    "healthy T1 scans of your protocol."
)
CHECKPOINT_GONE = "{} does not exist now: the bundled checkpoint is chosen."

FOLLOW = Text(
    "Follow slice",
    "Reconstructs the axial slice on screen while you scroll, then its neighbors, and estimates "
    "the time for the whole volume. The run uses finished slices. A preview is scored with few "
    "neighbors, so its findings may differ from those of the run.",
)
FOLLOW_AXIAL = "The preview follows axial slices: the one under the cursor"
PREVIEW_NOT_SAVED = "A preview is not saved: run the whole volume, or this slice."

RUN = Text("Run", "Reconstruct the scan as if it were healthy, and show the difference.")
CANCEL = Text("Cancel", "Stops within one step of the network; finished slices stay.")

THRESHOLD = Text(
    "Threshold", "Voxels with a higher score in any map become findings, while you drag."
)
IN_HEALTHY = "of false alarm in"
PROMISE = (
    "What this threshold marked in {} healthy brains that the model was not trained on{}. Expect "
    "more on another scanner: 'Calibrate for my scanner...' under 'Model' measures it."
)
PROMISE_OF = ", of {}"
IN_SLICES = "False alarms were measured in whole brains, not in some slices."
UNCALIBRATED = "False alarms were measured with the checkpoint's own settings, not with these."
PRESETS = Text(
    "False alarm",
    "Sets the threshold by how many mL it marks in healthy brains.",
)
PRESET = "{:g} mL"
PRESET_TIP = "The threshold for {:g} mL of false alarm in {}."
PRESET_BEYOND = "Even the highest measured threshold marked more than {:g} mL in {}."
NO_PRESETS = "False alarms were not measured for this checkpoint."
DEFAULT_THRESHOLD = Text("Default", "The checkpoint's own threshold: {}.")
MINIMUM = Text("Smallest finding", "Smaller findings are dropped, in mL.")
FINDING_COLUMNS = (
    Text("", "✓ accepted, ✗ rejected, ✎ with a note."),
    Text("#", "Number of the finding, also in the labels. It stays when the threshold changes."),
    Text("mL", "Volume."),
    Text(
        "Side",
        "The patient's side (L, R), and the mm from the center to the midline of the brain. "
        "'mid': both halves hold at least a quarter of the finding. ≈: estimated from the "
        "middle of the brain mask, because left and right differ too much for a plane of "
        "symmetry. ?: not known. Sorted from left to right.",
    ),
    Text(
        "Region",
        "The lobe that holds most of the finding; point at the row for what else holds a tenth of "
        "it or more. ≈: the finding is large, and pushes its surroundings away. Sorted by name.",
    ),
    Text(
        "⌀ mm",
        "The longest diameter in the axial slice where the finding is largest, and the longest "
        "one across it (RANO). Sorted by the longest.",
    ),
    Text("Peak", "Highest score in it."),
    Text("±", "Uncertainty: mean spread of the score over the draws."),
)
FINDINGS_TABLE = (
    "Click a finding to go there; Up and Down go to the next. A accepts, R rejects, T writes a "
    "note, Ctrl+Z undoes."
)
FOUND_BY = (
    "What differs in the selected finding from healthy brains. The layer 'anomaly map' shows "
    "changed structure, the layer 'brightness' what is darker or brighter."
)
SIDES_UNKNOWN = "The file does not say which side is left."
ACCEPT = Text("✓ Accept", "Marks the finding as an anomaly. Press again to take that back. Key: A")
REJECT = Text(
    "✗ Reject",
    "Marks the finding as a false alarm: it is dimmed in the picture, struck through here, and "
    "saved as rejected. Press again to take that back. Key: R",
)
UNDO = Text("Undo", "Undoes the last decision or note. Key: Ctrl+Z")
REDO = Text("Redo", "Repeats what was undone. Key: Ctrl+Shift+Z")
NOTE = Text(
    "Note on finding {}",
    "Saved with the finding. Do not write names of patients. Return keeps the note, Escape "
    "discards it. Key: T",
)
# Of the menu of a finding, with their keys.
FINDING_NAMED = "Finding {}"
MENU_ACCEPT, MENU_REJECT, MENU_NOTE = "Accept\tA", "Reject\tR", "Note...\tT"
NOTHING_SELECTED = "Select a finding to decide on it"
SAVE = Text(
    "Save...",
    "Writes all maps, the labels, the table of findings and the run record into a folder, on the "
    "scan's own grid.",
)
CASE_PAGE = Text(
    "Case page...",
    "Saves the results, and beside them one page with key pictures, the table of findings and the "
    "settings, to read, print or pass on. It opens in the browser.",
)
NO_BROWSER = ", which no program opened: open it in a browser"
SEG = Text(
    "Also as DICOM segmentation",
    "For an archive: it carries the patient's name, as its series does. Rejected findings are left "
    "out. A structured report of volumes and sides lies beside it.",
)
NO_SEG = "no DICOM segmentation: all findings are rejected"
OPEN_FOLDER = Text("Open folder", "Shows the saved files.")
RESUME = Text(
    "Go on with a review...",
    "Reads decisions, notes, threshold, smallest finding and corrections from the record of an "
    "earlier review of this scan (..._record.json).",
)
EARLIER_SECTION = Text(
    "Earlier scan",
    "Compares the findings with those of an earlier scan of the same patient. Click to fold or "
    "unfold.",
)
EARLIER_RECORD = Text("Record...", "Choose the earlier result by its run record (..._record.json).")
EARLIER_FOLDER = Text("Folder...", "Choose the folder that the earlier result was saved into.")
EARLIER_SCAN = Text("Its scan...", "Say where the earlier scan is, if not beside its record.")
EARLIER_CANCEL = Text("Cancel", "Stops after the present step.")
EARLIER_STEPS = (
    "Reading the earlier result ...",
    "Laying the earlier scan over this one ...",
    "Resampling the earlier scan ...",
)
EARLIER_HINT = "Compare with a saved result of an earlier scan of the same patient."
EARLIER_SHOW = Text(
    "Show",
    "Shows the earlier scan in place of this one. It is turned and shifted onto this one; its "
    "findings have purple outlines.",
)
EARLIER_BLINK = Text("Blink", "Shows both scans in turn, some times a second.")
EARLIER_PAGE = Text(
    "Page...",
    "Saves the results, and with them the comparison: tables, maps, and one page with pictures of "
    "each change. It opens in the browser.",
)
EARLIER_CLOSED = "The layers of the earlier scan were closed: choose its record again."
EARLIER_NOWHERE = "This place lies outside the present scan."
EARLIER_COLUMNS = (
    Text("Change", "From the earlier scan to this one."),
    Text("#", "Numbers of the findings in this scan. In brackets: in the earlier one."),
    Text("before", "Volume in the earlier scan, mL."),
    Text("after", "Volume in this scan, mL."),
    Text("± mL", "Difference, mL."),
    Text("Place", "Side and region."),
)
EARLIER_TABLE = (
    "Click a change to go there. Grown and shrunk: by more than 25 % and 0.5 mL. Weak findings "
    "hardly pass the threshold: they come and go by chance, and a change of their size is "
    "uncertain. Not covered: outside the brain that the other date shows."
)
VIEW_3D = Text("3D", "The volume from the front; the patient's right is on the left of the screen.")
THREE_PLANES = Text(
    "Three planes",
    "Shows the two other planes below, at the same place. Click anywhere to go there.",
)
RECONSTRUCTION = "reconstruction"
COMPARE_WITH = Text(
    "Compare with",
    "What Beside, Blink, Swipe and the key H show: the reconstruction, or any other image of the "
    "same place, for example FLAIR or another visit. It need not have the same voxels.",
)
BESIDE = Text(
    "Beside", "Shows the other image on a second canvas, with the same place, zoom and outlines."
)
BLINK = Text("Blink", "Shows scan and other image in turn, some times a second.")
SWIPE = Text(
    "Swipe",
    "Shows the scan left of the border and the other image right of it. Drag the slider.",
)
WINDOW = Text(
    "Window",
    "Contrast of the selected image, or else of the chosen scan and its reconstruction. Drag on "
    "the slice with the right mouse button: to the left for a narrower window, to the right for a "
    "wider one, up for brighter, down for darker.",
)
WINDOW_PRESETS = {
    "full": Text("Full range", "From the darkest to the brightest voxel."),
    "brain": Text(
        "Brain", "From the darkest to the brightest tissue of the brain, without the extremes."
    ),
    "narrow": Text(
        "Narrow", "Spreads gray and white matter over all grays, as one looks for a stroke."
    ),
}
WINDOW_RESET = Text("Reset", "The contrast as it was at first. Key: Shift+W")
COLOR_BAR = Text("Color bar", "Shows the score of each color of the map on screen.")
RULER = Text(
    "Ruler",
    "Drag on a slice to measure a distance in mm. A click without a drag erases the lines; so does "
    "turning the ruler off. They are not saved. Key: Shift+D",
)
POINTER = Text(
    "Pointer: {}",
    "Where the mouse is in the scanner: right or left, anterior or posterior, superior or inferior "
    "of the scanner's origin, in mm. Where that origin is far from the middle of the head, it says "
    "x, y, z, which grow to the right, to the front and up. napari's own numbers, on the left, are "
    "S, A, R of the layer, which stands upright; the slider counts slices.",
)
COLOR_BAR_LABEL = "anomaly score"
BRIGHTNESS_BAR_LABEL = "+ brighter\n− darker"
FIGURE_SCOPES = {"This slice": 1, "6 axial slices": 6, "12 axial slices": 12, "24 axial slices": 24}
FIGURE = Text(
    "Figure...",
    "Saves a picture of this slice, or of several axial slices, with map, outlines, scale bar, "
    "color bar, the patient's sides, and the settings.",
)
FIGURE_NAMED = Text(
    "Scan name",
    "Write the scan's name into the figure. A file name may be a patient's name: leave it out if "
    "others will see the figure.",
)
NO_FIGURE = "A figure shows a result: press Run first."
NO_SLICE = (
    "No layer of this result is open, so none of its slices is on screen: choose several slices, "
    "or run the scan again."
)
KEYS = Text(
    "Keys",
    "They work in the whole window, but not in text fields. A key that napari or another plugin "
    "uses stays theirs outside of this panel. Click to fold or unfold.",
)


class Shortcut(NamedTuple):
    """A key as napari names it and as people do, and its action."""

    key: str
    shown: str
    action: str
    does: str


# None of them is a key of napari's viewer, or of images and labels: Ctrl+Z and Ctrl+Shift+Z apart,
# which undo painting while a labels layer is selected.
SHORTCUTS = (
    Shortcut("N", "N", "next finding", "next finding"),
    Shortcut("Shift-N", "Shift N", "previous finding", "previous finding"),
    Shortcut("A", "A", "accept", "accept the finding"),
    Shortcut("R", "R", "reject", "reject the finding"),
    Shortcut("T", "T", "note", "note on the finding"),
    Shortcut("Ctrl-Z", "Ctrl Z", "undo", "undo a decision or note"),
    Shortcut("Ctrl-Shift-Z", "Ctrl Shift Z", "redo", "redo"),
    Shortcut("Shift-D", "Shift D", "ruler", "ruler on and off"),
    Shortcut("J", "J", "maps", "hide and show maps and outlines"),
    Shortcut("H", "H (hold)", "hold", "other image while held"),
    Shortcut("K", "K", "blink", "blink"),
    Shortcut("W", "W", "swipe", "swipe"),
    Shortcut("Q", "Q", "next plane", "next plane"),
    Shortcut("U", "U", "three planes", "three planes"),
    Shortcut("Shift-U", "Shift U", "beside", "beside"),
    Shortcut("Shift-Q", "Shift Q", "3d", "3D and back"),
    Shortcut("Shift-W", "Shift W", "reset window", "window as at first"),
    Shortcut("F1", "F1", "help", "guide"),
)
VIEW = "Turns the slice view. The patient's right is on the left of the screen (radiological)."

NO_IMAGE_CHOSEN = "Select the layer of a scan in the layer list first."
NO_LABELS_CHOSEN = "Select a labels layer in the layer list first."
NO_RESULT = "There is no result to save yet: press Run in the panel 'Detect anomalies' first."

OVERLAY = Text(
    "Show hits and misses",
    "Colors every voxel by findings and ground truth, inside the brain mask: hit (in both), false "
    "alarm (marked, not in the ground truth), missed (in the ground truth, not marked). It follows "
    "the threshold, and hides map, outlines and ground truth.",
)
HIT, FALSE_ALARM, MISSED = "hit", "false alarm", "missed"
CURVES_OF_MAP = (
    "Computed from the scores of the voxels inside the brain mask, the higher one where there are "
    "two maps, without regard to the smallest finding."
)
DICE_CURVE = Text(
    "Dice",
    "Overlap with the ground truth at every threshold. Drag the line, or click, to choose one. "
    "The best Dice is chosen with the ground truth: an upper bound, no result. " + CURVES_OF_MAP,
)
FALSE_ALARM_CURVE = Text(
    "False alarm",
    "With an empty ground truth every marked voxel is a false alarm: their volume at every "
    "threshold, on a logarithmic scale. Drag the line, or click, to choose one. " + CURVES_OF_MAP,
)
ROC_CURVE = Text(
    "ROC",
    "Share of the ground truth that is marked, against the share of healthy voxels that are marked "
    "falsely. A map without information runs along the diagonal. Healthy voxels are many, so a "
    "small share can be a large volume. Click to choose a threshold. " + CURVES_OF_MAP,
)
PR_CURVE = Text(
    "PR",
    "Share of what is marked that is ground truth, against the share of the ground truth that is "
    "marked. Click to choose a threshold. " + CURVES_OF_MAP,
)
LESION_TABLE = Text(
    "Lesions",
    "The connected parts of the ground truth. Found: at least 10 % of the lesion is covered by "
    "findings of which at most 70 % lies outside the ground truth. Click a row to go there.",
)
LESION_COLUMNS = {
    "id": Text("Lesion", "1 is the largest."),
    "volume_ml": Text("mL", "Volume inside the brain mask, in finished slices."),
    "found": Text("Found", LESION_TABLE.tip),
    "covered": Text("Covered", "Share of the lesion that lies in findings of any kind."),
    "peak": Text("Peak", "Highest score in the lesion."),
}
FLOODED = (
    "Covered, but only by findings that lie to more than 70 % outside the ground truth: they would "
    "find any lesion."
)
THRESHOLD_AXIS = "Threshold"
FALSE_POSITIVE_RATE_AXIS = "False positive rate"
FALSE_ALARM_AXIS = "False alarm, mL"
RECALL_AXIS = "Recall"
PRECISION_AXIS = "Precision"

# --- the panel 'Detect in a cohort' ---

COHORT_SECTION = Text("Cohort", "The scans, and the folder for results. Click to fold or unfold.")
OPTIONS_SECTION = Text(
    "Options", "What counts as a finding, and what is written. Click to fold or unfold."
)
COHORT_INPUT = Text(
    "Scans",
    "A folder (searched with the folders in it; a mask beside a scan is its ground truth), a BIDS "
    "dataset (its T1w images), a pattern such as study/*/t1.nii.gz, or a CSV with the column scan "
    "and optional columns case, truth and mask. Return searches again.",
)
COHORT_OUTPUT = Text(
    "Results",
    "Folder for all files. Results of the same scans, model and settings that are there are kept.",
)
CHOOSE_FOLDER = Text("Folder...", "Choose a folder.")
CHOOSE_TABLE = Text("CSV...", "Choose a table of cases.")
COHORT_THRESHOLD = Text(
    "Threshold", "Voxels with a higher score become findings. It starts at the model's own."
)
FRAME = Text("Frame of 4D", "The frame to read from scans with several frames, from 0.")
NO_FRAME = "none"
RESAMPLE_BESIDE = Text(
    "Resample",
    "Resample ground truths and masks on another grid onto their scan (nearest neighbor).",
)
PICTURES = Text("Pictures", "Write a montage of each case; the report shows them.")
COHORT_FILTER = Text("Filter by name", "Show only cases with these letters in their name or file.")
COHORT_COLUMNS = {
    "case": Text("Case", "Its folder in the results. Double-click, or Return, opens it."),
    "status": Text("Status", "The state of the case, in this run or an earlier one."),
    "reviewed": Text("Reviewed", "How many findings a person has accepted or rejected."),
    "ml": Text("mL", "Volume of all findings."),
    "dice": Text("Dice", "Overlap of findings and ground truth, 0 to 1."),
    "qc": Text("Flags", "Differences from the scans that the model knows. A run may add some."),
    "seconds": Text("s", "Computing time in seconds."),
    "truth": Text("T", "Whether it has a ground truth."),
    "mask": Text("M", "Whether it has a brain mask of its own."),
    "size": Text("Voxels", "Number of voxels, in the file's order."),
    "spacing": Text("mm", "Distance between neighboring voxels, in the file's order."),
}
COHORT_EMPTY = (
    "Choose scans and a folder for the results: the cases are listed before anything runs."
)
LOOKING_CANCELLED = "The search was cancelled: press Enter in Scans or Results to search again."
COHORT_STATES = {
    "waiting": "",
    "will fail": "It cannot be run as it is.",
    "skipped": "It is not run.",
    "done earlier": "The results folder has a result. A run checks whether scan, model, settings "
    "and files are still the same, and repeats the case if not.",
    "failed earlier": "It failed in an earlier run. The next run tries it again.",
    "not checked": "Its files come from an earlier run. The last run could not check them, or "
    "somebody has changed one.",
    "unchanged": "Done in an earlier run: scan, model, settings and files are still the same.",
}
COHORT_RUN = Text(
    "Run",
    "Run all cases. Cases that are done with the same settings are kept.",
)
COHORT_RESUME = Text("Resume", "Continue where the last run stopped. Finished cases are checked.")
COHORT_CANCEL = Text(
    "Cancel",
    "Stops within one step of the network; finished cases stay. Before a run it stops the search "
    "for cases.",
)
RETRY_FAILED = Text(
    "Retry failed",
    "Run only the cases that failed or could not be checked.",
)
PREVIOUS_CASE = Text("Previous case", "Open the finished case above this one. Ctrl+Left.")
NEXT_CASE = Text("Next case", "Open the finished case below this one. Ctrl+Right.")
NEXT_TO_REVIEW = Text(
    "Next to review",
    "Open the next case with a finding that is neither accepted nor rejected, or without findings "
    "and not seen. Ctrl+Return.",
)
CASE_KEYS = ("Ctrl+Left", "Ctrl+Right", "Ctrl+Return")
NO_MORE_CASES = {
    1: "This is the last finished case in the table.",
    -1: "This is the first finished case in the table.",
    0: "All findings of the cases in the table are accepted or rejected, all others are seen.",
}
NOTHING_FOUND = "Nothing was found in this case."
SEEN_ALREADY = " A person has looked at it."
SEEN = Text(
    "✓ Seen, no findings",
    "Says that you have looked at this case, in which nothing was found. Press again to take that "
    "back. Key: A",
)
SAVED = "saved"
SAVING = "saving ..."
NOT_SAVED = "not saved"
DECISIONS_NOT_SAVED = "The decisions on {} are not saved: {}"
DECISIONS_LOST = (
    "Somebody else has changed the results of {} meanwhile. They are shown. Not saved, so decide "
    "again: {}"
)
NOT_IN_VIEW = "{} is not in view: double-click its row to go on."
OTHER_OUTLINES = (
    "The outlines on the screen are not the saved ones. You decide on the saved findings; what was "
    "painted or computed since is not saved with them."
)
CASE_FAILED = "{} has nothing to open: {}"
REPORT_WRITTEN = "The report is {}"
OPEN_REPORT = Text(
    "Open report", "Writes the report of the cohort and opens it in the web browser."
)
OPEN_RESULTS = Text("Open folder", "Shows the files of all cases.")

OTHER_SCAN = (
    "The findings of {} are kept: choose that scan under Scan, or select it in the layer list, to "
    "see them again."
)
MISFITS = {
    "place": (
        "'{}' has been moved, scaled or turned since the run. Its findings were computed for "
        "the old place and voxel size: press Run again."
    ),
    "voxels": (
        "The voxels of '{}' have been replaced since the run. Its findings belong to the old "
        "voxels: press Run again."
    ),
}
ALL_CLOSED = (
    "The last result is of '{}', whose layers are closed. It can still be saved. To see it, open "
    "that scan again and press Run."
)
CLOSED_SCAN = (
    "The last result is of '{}', whose layer is closed. To see or save it, close the other scans; "
    "or open that scan again and press Run."
)
RESULTS_SHOWN = (
    "The maps on screen are of an earlier run on this scan: Run brings its findings back, with "
    "your decisions. Findings of a cohort are decided on in its own panel."
)
SCAN_NAMED = "Scan: {}"
FINDINGS_NAMED = "Findings in {}"
SAVE_NAMED = "Save: {}"
RUN_NAMED = "Run on {}"
RUN_IS_ON = "Run will look for anomalies in {}."
RUNNING_ON = "Running on {}"
RUN_GOES_ON = "A run goes on: wait until it ends, or cancel it."
NO_SCAN = "Open a scan first."
NO_CHECKPOINT = "Choose a checkpoint that can be read first."
IN_THIS_SLICE = "This slice: {}"
RUN_TOOK = "The run took {}."
CANCELLING = "Cancelling ..."
CANCELLED_EARLY = "Cancelled before the first slice was done"
STOPPED_EARLY = "Stopped before the first slice was done: press Run to begin again"
CORRECTIONS_KEPT = "Your corrections are kept in the layer '{}'."
