//! How the networks were trained that draw pictures or enlarge them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use domain::study::records::{DdpmRecord, Record, SinddmRecord, Swin2srRecord};
use domain::study::results::{Enlarging, LossCurve, ModelTraining};
use domain::study::stage::{Failure, FailureCode, Folder, InputName, StageKind, Subject};
use domain::study::stone::View;
use domain::study::system::Model;

use crate::files;
use crate::training::losses;

/// Reads `training.json` and `loss.csv` of every training that is among the inputs.
///
/// # Errors
/// If one of them cannot be read.
pub(super) fn trainings(folder: &Folder) -> Result<Vec<ModelTraining>, Failure> {
    let mut found = vec![];
    for stage in [StageKind::SinddmTrain, StageKind::DdpmTrain, StageKind::Swin2srTrain] {
        for model in View::ALL.into_iter().flat_map(Model::of_view) {
            found.extend(read(folder, stage, model)?);
            let Model::Class(view, class) = model else { continue };
            // One of each picture, as many as there are.
            for picture in 0.. {
                let Some(training) = read(folder, stage, Model::Picture(view, class, picture))? else { break };
                found.push(training);
            }
        }
    }
    Ok(found)
}

/// The training of one model, if it is among the inputs.
fn read(folder: &Folder, stage: StageKind, model: Model) -> Result<Option<ModelTraining>, Failure> {
    let input = folder.input(InputName::RecordOf(stage, Subject::Model(model)));
    if !input.exists() {
        return Ok(None);
    }
    let mut training = ModelTraining {
        stage: stage.name().to_owned(),
        view: model.view(),
        class: model.class(),
        picture: model.picture(),
        steps: 0,
        final_loss: 0.0,
        loss_by_scale: BTreeMap::new(),
        curve: LossCurve::default(),
        enlarging: None,
    };
    let path = input.join("loss.csv");
    let csv = fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
    let losses = losses::parse(&csv)
        .map_err(|problem| Failure::new(FailureCode::Internal, format!("{}: {problem}", path.display())))?;
    training.steps = losses.len() as u32;
    training.curve = LossCurve::of(&losses);
    match stage {
        StageKind::SinddmTrain => {
            let record: SinddmRecord = record(&input)?;
            (training.final_loss, training.loss_by_scale) = (record.final_loss, record.loss_by_scale);
        }
        StageKind::DdpmTrain => training.final_loss = record::<DdpmRecord>(&input)?.final_loss,
        _ => {
            let Swin2srRecord { final_loss, held_out, ours, bicubic, .. } = record(&input)?;
            training.final_loss = final_loss;
            training.enlarging = Some(Enlarging { held_out, ours, bicubic });
        }
    }
    Ok(Some(training))
}

fn record<T: Record>(input: &Path) -> Result<T, Failure> {
    files::read(&input.join(T::FILE))
}
